//! What a certificate says: names it is for, how long it is good, whose it is.

use std::fmt::Write;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use veilmq_core::{CertificateField, CertificateFields};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The longest text that MQTT can carry (MQTT 5.0 section 1.5.4).
const USER_NAME_BYTES_MAX: usize = 65_535;

/// More certificates are not shown.
const CHAIN_MAX: usize = 8;

/// The short names of attributes (RFC 4514 section 3, and those that OpenSSL has beside them).
const SHORT_NAMES: [(&str, &str); 16] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.46", "dnQualifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Why a certificate proves no User Name.
pub(super) const NO_USER_NAME: &str = "the subject of the client certificate is no User Name";

/// What the broker wants to know of a certificate of its own.
pub(super) struct Facts {
    /// The names of hosts that it is for, in lower case; `*.` stands before those of which it is for all names one level below.
    pub(super) names: Vec<String>,
    /// From when it is good, in seconds of Unix time.
    pub(super) not_before: i64,
    /// Until when it is good, in seconds of Unix time.
    pub(super) not_after: i64,
}

/// Reads a certificate; None if it is none.
pub(super) fn facts(der: &[u8]) -> Option<Facts> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => dns_names(&extension.value.general_names),
        Ok(None) | Err(_) => Vec::new(),
    };
    let validity = certificate.validity();
    Some(Facts {
        names,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

/// Returns when a list of revocations needs a successor, in seconds of Unix time; None if it does not say so, or is none.
pub(super) fn next_update(der: &[u8]) -> Option<i64> {
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    list.next_update().map(|at| at.timestamp())
}

/// Returns the public key of a certificate, as DER of its SubjectPublicKeyInfo (RFC 5280 section 4.1); None if it is none.
pub(super) fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.public_key().raw.to_vec())
}

/// Puts the issuers that are known behind a chain that ends before an authority: a client needs them, and knows the authority itself.
pub(super) fn complete(chain: &mut Vec<CertificateDer<'static>>, issuers: &[CertificateDer<'static>]) {
    while chain.len() < CHAIN_MAX
        && let Some(issuer) = chain.last().and_then(|last| issuer_of(last, issuers))
    {
        chain.push(issuer);
    }
}

/// Returns the issuer of a certificate if it is among these; None also for an authority, which is its own.
fn issuer_of(certificate: &[u8], issuers: &[CertificateDer<'static>]) -> Option<CertificateDer<'static>> {
    let (_, issued) = X509Certificate::from_der(certificate).ok()?;
    let found = issuers.iter().find(|issuer| {
        let Ok((_, issuer)) = X509Certificate::from_der(issuer) else { return false };
        issuer.subject() == issued.issuer() && issuer.subject() != issuer.issuer()
    })?;
    Some(found.clone())
}

fn dns_names(names: &[GeneralName<'_>]) -> Vec<String> {
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    dns.collect()
}

/// Tells whether a certificate for `pattern` is good for a host of this name (RFC 6125 section 6.4.3).
pub(super) fn is_for(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(parent) => host.split_once('.').is_some_and(|(_, above)| parent.eq_ignore_ascii_case(above)),
    }
}

/// Returns the common name of a certificate, the first one if it has several.
///
/// # Errors
/// It has none, or one that MQTT cannot carry.
pub(super) fn common_name(der: &[u8]) -> Result<String, &'static str> {
    let certificate = parse(der)?;
    let name = certificate.subject().iter_common_name().next().ok_or(NO_USER_NAME)?;
    user_name(text(name).ok_or(NO_USER_NAME)?)
}

/// Returns the subject of a certificate as RFC 2253 writes it, with everything but ASCII escaped, as OpenSSL does.
///
/// # Errors
/// It is empty, or MQTT cannot carry it.
pub(super) fn subject(der: &[u8]) -> Result<String, &'static str> {
    let certificate = parse(der)?;
    user_name(rfc_2253(certificate.subject()))
}

/// Returns what a client's certificate says of its owner. What is no text, or too long for MQTT, is left out.
pub(super) fn fields(der: &[u8]) -> CertificateFields {
    let Ok(certificate) = parse(der) else { return CertificateFields::default() };
    let subject = certificate.subject();
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let alternatives = alternatives.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((CertificateField::Dns, name.to_ascii_lowercase())),
        GeneralName::URI(uri) => Some((CertificateField::Uri, (*uri).to_owned())),
        GeneralName::RFC822Name(address) => Some((CertificateField::Email, (*address).to_owned())),
        _ => None,
    });
    let serial: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect();
    let fingerprint = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let common_name = subject.iter_common_name().next().and_then(text);
    let said = common_name.map(|name| (CertificateField::CommonName, name)).into_iter();
    let said = said.chain([
        (CertificateField::Subject, rfc_2253(subject)),
        // A number that begins with a high bit has a zero before it.
        (CertificateField::Serial, serial.strip_prefix("00").unwrap_or(&serial).to_owned()),
        (CertificateField::Fingerprint, fingerprint),
    ]);
    let fits = |(_, text): &(_, String)| text.len() <= USER_NAME_BYTES_MAX;
    CertificateFields::new(said.chain(alternatives).filter(fits).map(|(field, text)| (field, text.into())))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, &'static str> {
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|_| NO_USER_NAME)
}

/// [MQTT-1.5.4-2] No text holds U+0000.
fn user_name(name: String) -> Result<String, &'static str> {
    let is_good = !name.is_empty() && !name.contains('\0') && name.len() <= USER_NAME_BYTES_MAX;
    if is_good { Ok(name) } else { Err(NO_USER_NAME) }
}

fn text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    use x509_parser::der_parser::asn1_rs::Tag;
    let bytes = attribute.as_slice();
    match attribute.attr_value().tag() {
        Tag::BmpString => {
            let (pairs, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            if rest.is_empty() { String::from_utf16(&units).ok() } else { None }
        }
        // In practice Latin-1, whatever the standard of 1988 says.
        Tag::T61String => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        _ => attribute.as_str().ok().map(str::to_owned),
    }
}

fn rfc_2253(name: &X509Name<'_>) -> String {
    let mut written = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (index, part) in parts.iter().rev().enumerate() {
        if index > 0 {
            written.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                written.push('+');
            }
            write_attribute(attribute, &mut written);
        }
    }
    written
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, into: &mut String) {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(known, _)| *known == oid).map(|(_, short)| *short);
    into.push_str(short.unwrap_or(&oid));
    into.push('=');
    match text(attribute) {
        Some(text) if short.is_some() => escape(&text, into),
        _ => {
            into.push('#');
            for byte in attribute.as_slice() {
                hexadecimal(*byte, into);
            }
        }
    }
}

/// RFC 2253 section 2.4.
fn escape(text: &str, into: &mut String) {
    let last = text.chars().count().saturating_sub(1);
    for (index, character) in text.chars().enumerate() {
        let is_special = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        let is_edge = character == ' ' && (index == 0 || index == last) || character == '#' && index == 0;
        if is_special || is_edge {
            into.push('\\');
            into.push(character);
        } else if character.is_ascii() && !character.is_ascii_control() {
            into.push(character);
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                into.push('\\');
                hexadecimal(byte, into);
            }
        }
    }
}

fn hexadecimal(byte: u8, into: &mut String) {
    // Writing into a String does not fail.
    let _ = write!(into, "{byte:02X}");
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, DnValue, IsCa,
        KeyPair, SanType, SerialNumber,
    };

    use super::*;

    fn certificate(attributes: &[(DnType, DnValue)]) -> Vec<u8> {
        let mut name = DistinguishedName::new();
        for (kind, value) in attributes {
            name.push(kind.clone(), value.clone());
        }
        let mut params = CertificateParams::new(vec!["Broker.Example".into(), "*.example".into()]).unwrap();
        params.distinguished_name = name;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_chain_is_completed_up_to_an_authority_but_without_it() {
        let named = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            (params, KeyPair::generate().unwrap())
        };
        let (params, key) = named("root");
        let root = CertifiedIssuer::self_signed(params, key).unwrap();
        let (params, key) = named("between");
        let between = CertifiedIssuer::signed_by(params, key, &root).unwrap();
        let (params, key) = named("own");
        let own = params.signed_by(&key, &between).unwrap();
        let mut chain = vec![own.der().clone()];

        complete(&mut chain, &[root.der().clone(), between.der().clone()]);

        assert_eq!(chain, [own.der().clone(), between.der().clone()]);
    }

    #[test]
    fn a_subject_is_written_from_its_end_with_what_is_special_escaped() {
        let der = certificate(&[
            (DnType::CountryName, DnValue::PrintableString("GB".try_into().unwrap())),
            (DnType::OrganizationName, " Smith, Jones + \"Co\" ".into()),
            (DnType::OrganizationalUnitName, "#1".into()),
            (DnType::CommonName, "Zoë <test>".into()),
        ]);

        assert_eq!(
            subject(&der).unwrap(),
            "CN=Zo\\C3\\AB \\<test\\>,OU=\\#1,O=\\ Smith\\, Jones \\+ \\\"Co\\\"\\ ,C=GB"
        );
        assert_eq!(common_name(&der).unwrap(), "Zoë <test>");
    }

    #[test]
    fn a_name_that_mqtt_cannot_carry_is_no_user_name() {
        // [A11]
        for value in ["", "a\0b"] {
            let der = certificate(&[(DnType::CommonName, value.into())]);

            assert_eq!(common_name(&der), Err(NO_USER_NAME), "{value:?}");
        }
        assert_eq!(common_name(&certificate(&[])), Err(NO_USER_NAME));
        assert_eq!(subject(&certificate(&[])), Err(NO_USER_NAME));
        assert_eq!(common_name(b"no certificate"), Err(NO_USER_NAME));
    }

    #[test]
    fn a_name_in_two_byte_characters_is_read() {
        let name = rcgen::string::BmpString::try_from("Zoë").unwrap();
        let der = certificate(&[(DnType::CommonName, DnValue::BmpString(name))]);

        assert_eq!(common_name(&der).unwrap(), "Zoë");
    }

    #[test]
    fn a_certificate_says_these_things_of_its_owner() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Plant");
        params.distinguished_name.push(DnType::CommonName, "meter 7");
        params.serial_number = Some(SerialNumber::from(vec![0xA1, 0x00, 0x0B]));
        params.subject_alt_names = vec![
            SanType::IpAddress([192, 0, 2, 7].into()),
            SanType::Rfc822Name("seven@plant.example".try_into().unwrap()),
            SanType::DnsName("M7.Plant.example".try_into().unwrap()),
            SanType::DnsName("other.example".try_into().unwrap()),
            SanType::URI("urn:dev:7".try_into().unwrap()),
        ];
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();

        let fields = fields(certificate.der());

        let fingerprint: String =
            Sha256::digest(certificate.der()).iter().map(|byte| format!("{byte:02x}")).collect();
        for (field, expected) in [
            (CertificateField::CommonName, "meter 7"),
            (CertificateField::Subject, "CN=meter 7,O=Plant"),
            (CertificateField::Dns, "m7.plant.example"),
            (CertificateField::Uri, "urn:dev:7"),
            (CertificateField::Email, "seven@plant.example"),
            (CertificateField::Serial, "A1000B"),
            (CertificateField::Fingerprint, &fingerprint),
        ] {
            assert_eq!(fields.field(field), Some(expected), "{field:?}");
        }
    }

    #[test]
    fn a_certificate_that_names_nobody_still_has_a_number_and_a_fingerprint() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();

        let fields = fields(certificate.der());

        let there = |field: &CertificateField| fields.field(*field).is_some();
        let there: Vec<_> = CertificateField::ALL.into_iter().filter(there).collect();
        assert_eq!(there, [CertificateField::Serial, CertificateField::Fingerprint]);
    }

    #[test]
    fn a_certificate_is_for_its_names_and_for_one_level_below_a_wildcard() {
        let names = facts(&certificate(&[])).unwrap().names;

        assert_eq!(names, ["broker.example", "*.example"]);
        for (pattern, host, expected) in [
            ("broker.example", "BROKER.example", true),
            ("broker.example", "a.broker.example", false),
            ("*.example", "broker.example", true),
            ("*.example", "a.broker.example", false),
            ("*.example", "example", false),
        ] {
            assert_eq!(is_for(pattern, host), expected, "{pattern} for {host}");
        }
    }
}
