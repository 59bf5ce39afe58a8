//! What the certificate says that a client has shown to TLS, as far as rules and services may ask for it.
//!
//! Whoever drives the core has verified the certificate and read it. Invariant: a field is there with a text in it, or it is not there.

/// Something that a certificate says of its owner. Where a certificate says it several times, the first one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificateField {
    /// The common name in its subject (RFC 5280 section 4.1.2.6).
    CommonName,
    /// The whole subject, as RFC 2253 writes it.
    Subject,
    /// The dNSName in its Subject Alternative Name (RFC 5280 section 4.2.1.6), in lower case.
    Dns,
    /// The uniformResourceIdentifier there.
    Uri,
    /// The rfc822Name there.
    Email,
    /// The serial number, in hexadecimal digits and capital letters.
    Serial,
    /// The SHA-256 of the whole certificate, in hexadecimal digits and small letters.
    Fingerprint,
}

impl CertificateField {
    /// All that there are.
    pub const ALL: [Self; 7] =
        [Self::CommonName, Self::Subject, Self::Dns, Self::Uri, Self::Email, Self::Serial, Self::Fingerprint];

    /// Returns what stands between `%{` and `}` for it in rules.
    pub fn name(self) -> &'static str {
        match self {
            Self::CommonName => "cn",
            Self::Subject => "subject",
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::Email => "email",
            Self::Serial => "serial",
            Self::Fingerprint => "fingerprint",
        }
    }

    /// Returns the field of this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }
}

/// What a client's certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CertificateFields(Box<[(CertificateField, Box<str>)]>);

impl CertificateFields {
    /// Takes over what a certificate says. Of what is said of one field the first counts, and an empty text says nothing.
    pub fn new(said: impl IntoIterator<Item = (CertificateField, Box<str>)>) -> Self {
        let mut fields: Vec<(CertificateField, Box<str>)> = Vec::new();
        for (field, text) in said {
            if !text.is_empty() && fields.iter().all(|(known, _)| *known != field) {
                fields.push((field, text));
            }
        }
        fields.sort_unstable_by_key(|(field, _)| *field);
        Self(fields.into())
    }

    /// Returns what it says, in the order of [`CertificateField::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (CertificateField, &str)> {
        self.0.iter().map(|(field, text)| (*field, &**text))
    }

    /// Returns what it says of a field; None if that is nothing.
    pub fn field(&self, field: CertificateField) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == field).map(|(_, text)| &**text)
    }

    /// Returns the bytes that it occupies in memory.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.0.iter().map(|entry| size_of_val(entry) + entry.1.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_said_of_one_field_the_first_counts_and_nothing_is_not_a_text() {
        let said = [
            (CertificateField::CommonName, ""),
            (CertificateField::Dns, "a.example"),
            (CertificateField::Dns, "b.example"),
        ];

        let fields = CertificateFields::new(said.map(|(field, text)| (field, text.into())));

        assert_eq!(fields.field(CertificateField::Dns), Some("a.example"));
        assert_eq!(fields.field(CertificateField::CommonName), None);
        assert_eq!(fields.field(CertificateField::Serial), None);
    }
}
