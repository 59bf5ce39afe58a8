//! How a filter with `%u`, `%c` and fields of certificates becomes the pattern of one client.
//!
//! Invariant: what a client calls itself, or a certificate calls it, is compared byte by byte. It never becomes a wildcard, whatever is
//! in it [CVE-2017-7650], and what a certificate says stays within its level.

use veilmq_protocol::{TopicFilter, TopicName};

use super::certificate::{CertificateField, CertificateFields};

/// A Topic Filter in which `%u` stands for the user name and `%c` for the Client Identifier, and in our own files `%{cn}` and others for
/// what the client's certificate says; unless it is a literal one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    levels: Box<[Part]>,
    needs_user: bool,
    is_dollar: bool,
    placeholders: Placeholders,
}

/// What stands for something else in a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholders {
    None,
    /// `%u` and `%c`.
    Names,
    /// These, and fields of the client's certificate.
    NamesAndFields {
        /// There is one of those.
        has_field: bool,
    },
}

/// What a client is called: what can stand in its patterns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    /// By its user name; None if it has none.
    pub(crate) user: Option<&'a str>,
    /// By its Client Identifier.
    pub(crate) client_id: &'a str,
    /// By its certificate; None if it has shown none.
    pub(crate) certificate: Option<&'a CertificateFields>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    One,
    Rest,
}

/// Why a text is not a [`Template`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Without its `%u` and `%c` it is not a Topic Filter.
    #[error("it is not a Topic Filter")]
    NotAFilter,
    /// It is the filter of a Shared Subscription; the rule is to name the filter behind the group.
    #[error("it names a group; a rule for the filter behind it holds for Shared Subscriptions too")]
    Shared,
    /// A `%{` is not followed by the name of a field and `}`.
    #[error("behind `%{{` stands cn, subject, dns, uri, email, serial or fingerprint, and `}}`")]
    Field,
}

const USER: &str = "%u";
const CLIENT_ID: &str = "%c";
const FIELD: &str = "%{";
const FIELD_END: char = '}';
/// What a field has to be without: with one of these it would be more than the level it is written for.
const UNFIT: [char; 4] = ['/', '+', '#', '\0'];

impl Template {
    /// Reads a filter in which `%u` and `%c` stand for names, and `%{cn}` and its like for what a certificate says.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        let names = Self::with_names(text)?;
        let has_field = text.contains(FIELD);
        if text.split(FIELD).skip(1).any(|behind| field(behind).is_none()) {
            return Err(TemplateError::Field);
        }
        Ok(Self { placeholders: Placeholders::NamesAndFields { has_field }, ..names })
    }

    /// Reads a filter in which `%u` and `%c` stand for names.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn with_names(text: &str) -> Result<Self, TemplateError> {
        let literal = Self::literal(text)?;
        Ok(Self { needs_user: text.contains(USER), placeholders: Placeholders::Names, ..literal })
    }

    /// Reads a filter in which nothing stands for anything else.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn literal(text: &str) -> Result<Self, TemplateError> {
        let filter = TopicFilter::new(text).map_err(|_| TemplateError::NotAFilter)?;
        if filter.shared().is_some() || text.starts_with("$share/") {
            return Err(TemplateError::Shared);
        }
        Ok(Self::of_levels(filter.levels(), text))
    }

    /// Reads a filter in which `%u` and `%c` stand for names, and which may begin with `$share` and a group.
    ///
    /// # Errors
    /// [`TemplateError::NotAFilter`].
    pub fn with_groups(text: &str) -> Result<Self, TemplateError> {
        // What is written for a group need not name one, so the text is looked at without its first level.
        let rest = text.strip_prefix("$share/").unwrap_or(text);
        TopicFilter::new(rest).map_err(|_| TemplateError::NotAFilter)?;
        let template = Self::of_levels(text.split('/'), text);
        Ok(Self { needs_user: text.contains(USER), placeholders: Placeholders::Names, ..template })
    }

    fn of_levels<'a>(levels: impl Iterator<Item = &'a str>, text: &str) -> Self {
        let levels = levels.map(|level| match level {
            "+" => Part::One,
            "#" => Part::Rest,
            text => Part::Text(text.into()),
        });
        let is_dollar = text.starts_with('$');
        Self { levels: levels.collect(), needs_user: false, is_dollar, placeholders: Placeholders::None }
    }

    /// Tells whether what a certificate says stands in it.
    pub(super) fn needs_certificate(&self) -> bool {
        self.placeholders == Placeholders::NamesAndFields { has_field: true }
    }

    /// Returns the pattern of every client; None if it has names in it.
    pub(super) fn fixed(&self) -> Option<Pattern> {
        let has_name =
            |part: &Part| matches!(part, Part::Text(text) if text.contains(USER) || text.contains(CLIENT_ID));
        let has_names = self.placeholders != Placeholders::None && self.levels.iter().any(has_name);
        if has_names || self.needs_certificate() {
            return None;
        }
        self.resolve(Names { user: None, client_id: "", certificate: None })
    }

    /// Returns the pattern of one client; None if it needs a user name and there is none, or a field of a certificate that is not
    /// there or does not fit into one level.
    pub(super) fn resolve(&self, names: Names<'_>) -> Option<Pattern> {
        if self.needs_user && names.user.is_none() {
            return None;
        }
        let mut levels = Vec::with_capacity(self.levels.len());
        for part in &self.levels {
            match part {
                Part::One => levels.push(Level::One),
                Part::Rest => levels.push(Level::Rest),
                Part::Text(text) if self.placeholders == Placeholders::None => {
                    levels.push(Level::Text(text.clone()));
                }
                // A name with a `/` in it takes up as many levels as it has in a topic.
                Part::Text(text) => {
                    let text = substitute(text, names, self.needs_certificate())?;
                    levels.extend(text.split('/').map(|level| Level::Text(level.into())));
                }
            }
        }
        Some(Pattern { levels: levels.into(), is_dollar: self.is_dollar })
    }
}

/// Puts the names in, in one pass: what stands in one name does not stand for the other. None if a field cannot be put in.
fn substitute(mut text: &str, names: Names<'_>, has_fields: bool) -> Option<String> {
    let mut whole = String::with_capacity(text.len());
    while let Some(at) = text.find('%') {
        let (before, rest) = text.split_at(at);
        whole.push_str(before);
        text = if let Some(after) = rest.strip_prefix(USER) {
            whole.push_str(names.user.unwrap_or_default());
            after
        } else if let Some(after) = rest.strip_prefix(CLIENT_ID) {
            whole.push_str(names.client_id);
            after
        } else if let Some(behind) = rest.strip_prefix(FIELD).filter(|_| has_fields) {
            let (field, after) = field(behind)?;
            let said = names.certificate?.field(field)?;
            if said.contains(UNFIT) {
                return None;
            }
            whole.push_str(said);
            after
        } else {
            whole.push('%');
            rest.split_at(1).1
        };
    }
    whole.push_str(text);
    Some(whole)
}

/// Reads the name of a field up to its end, and returns what follows.
fn field(behind: &str) -> Option<(CertificateField, &str)> {
    let (name, after) = behind.split_once(FIELD_END)?;
    Some((CertificateField::named(name)?, after))
}

/// The topics that a rule concerns for one client.
#[derive(Debug)]
pub(crate) struct Pattern {
    levels: Box<[Level]>,
    /// Only rules that are written with a `$` concern topics that begin with one, whatever clients call themselves.
    is_dollar: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Level {
    Text(Box<str>),
    One,
    Rest,
}

impl Pattern {
    /// Reads a Topic Filter in which nothing stands for anything else.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub(crate) fn literal(filter: &str) -> Result<Self, TemplateError> {
        // A literal template names nobody, so it needs nobody's name.
        let nobody = Names { user: None, client_id: "", certificate: None };
        Template::literal(filter)?.resolve(nobody).ok_or(TemplateError::NotAFilter)
    }

    /// Tells whether a topic is one of them ([MQTT-4.7.1-2], [MQTT-4.7.2-1]).
    pub(crate) fn matches(&self, topic: TopicName<'_>) -> bool {
        if topic.is_dollar() != self.is_dollar {
            return false;
        }
        let mut patterns = self.levels.iter();
        for level in topic.levels() {
            match patterns.next() {
                Some(Level::Rest) => return true,
                Some(Level::One) => {}
                Some(Level::Text(text)) if **text == *level => {}
                Some(Level::Text(_)) | None => return false,
            }
        }
        // `#` stands for the level above it too.
        matches!(patterns.next(), None | Some(Level::Rest))
    }

    /// Tells whether every topic that the filter matches is one of them.
    pub(super) fn covers(&self, filter: TopicFilter<'_>) -> bool {
        if filter.as_str().starts_with('$') != self.is_dollar {
            return false;
        }
        let mut patterns = self.levels.iter();
        for level in filter.levels() {
            match (patterns.next(), level) {
                (Some(Level::Rest), _) => return true,
                (Some(Level::One), level) if level != "#" => {}
                (Some(Level::Text(text)), level) if !matches!(level, "+" | "#") && **text == *level => {}
                (Some(Level::One | Level::Text(_)) | None, _) => return false,
            }
        }
        matches!(patterns.next(), None | Some(Level::Rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(template: &str, user: &str, client_id: &str) -> Pattern {
        Template::new(template).unwrap().resolve(names(Some(user), client_id)).unwrap()
    }

    fn names<'a>(user: Option<&'a str>, client_id: &'a str) -> Names<'a> {
        Names { user, client_id, certificate: None }
    }

    fn with_common_name(text: &str) -> CertificateFields {
        CertificateFields::new([(CertificateField::CommonName, text.into())])
    }

    #[test]
    fn a_name_is_compared_literally_whatever_is_in_it() {
        // [B01]
        for (template, user, client_id, topic, expected) in [
            ("u/%u/x", "ann", "c", "u/ann/x", true),
            ("u/%u/x", "ann", "c", "u/bob/x", false),
            ("u/%u/x", "+", "c", "u/bob/x", false),
            ("u/%u", "#", "c", "u/bob", false),
            ("u/%u/#", "+", "c", "u/bob/x", false),
            ("u/%u", "a/b", "c", "u/a/b", true),
            ("u/%u", "a/+", "c", "u/a/b", false),
            ("u/%u", "a/#", "c", "u/a/b", false),
            ("u/%u/x", "", "c", "u//x", true),
            ("%c/x", "ann", "#", "a/x", false),
            ("%c/#", "ann", "$SYS", "$SYS/x", false),
            ("$SYS/%c", "ann", "x", "$SYS/x", true),
            ("dev-%c-%u/x", "ann", "7", "dev-7-ann/x", true),
            ("%u/x", "%c", "secret", "secret/x", false),
            ("100%/x", "ann", "c", "100%/x", true),
        ] {
            let pattern = pattern(template, user, client_id);

            let matches = pattern.matches(TopicName::new(topic).unwrap());

            assert_eq!(matches, expected, "{template} for {user:?} and {client_id:?}, topic {topic}");
        }
    }

    #[test]
    fn a_template_with_a_user_name_is_no_rule_for_a_client_without_one() {
        assert!(Template::new("u/%u").unwrap().resolve(names(None, "c")).is_none());
        assert!(Template::new("u/%c").unwrap().resolve(names(None, "c")).is_some());
    }

    #[test]
    fn what_a_certificate_says_is_one_level_or_part_of_one_or_there_is_no_rule() {
        // [B01]
        for (template, said, topic, expected) in [
            ("d/%{cn}/x", "m7", "d/m7/x", true),
            ("d/%{cn}/x", "m7", "d/m8/x", false),
            ("d/%c-%{cn}-%u/#", "m7", "d/c-m7-u/x", true),
            ("d/%{cn}/#", "%u", "d/u/x", false),
            ("d/%{cn}/#", "%u", "d/%u/x", true),
            ("d/%{cn}/#", "%{cn}", "d/%{cn}/x", true),
            ("%{cn}/#", "$SYS", "$SYS/x", false),
            ("d/%{cn}/#", "a/b", "d/a/b/x", false),
            ("d/%{cn}/#", "+", "d/m7/x", false),
            ("d/%{cn}/#", "#", "d/m7/x", false),
            ("d/%{cn}/#", "m7\0", "d/m7/x", false),
            ("d/%{cn}/#", "", "d//x", false),
            ("d/%{serial}/#", "m7", "d/m7/x", false),
            ("d/%{serial}/#", "m7", "d//x", false),
        ] {
            let certificate = with_common_name(said);
            let client = Names { certificate: Some(&certificate), ..names(Some("u"), "c") };

            let pattern = Template::new(template).unwrap().resolve(client);

            let matches = pattern.is_some_and(|pattern| pattern.matches(TopicName::new(topic).unwrap()));
            assert_eq!(matches, expected, "{template} for {said:?}, topic {topic}");
        }
        assert!(Template::new("d/%{cn}").unwrap().resolve(names(Some("u"), "c")).is_none());
    }

    #[test]
    fn fields_of_certificates_are_named_in_our_own_rules_alone() {
        let certificate = with_common_name("m7");
        let client = Names { certificate: Some(&certificate), ..names(None, "c") };
        for text in ["d/%{cn", "d/%{}", "d/%{CN}", "d/%{cn/x}", "%{cn}/%{o}"] {
            assert_eq!(Template::new(text), Err(TemplateError::Field), "{text}");
        }
        for template in [Template::with_names("d/%{cn}"), Template::with_groups("d/%{cn}")] {
            let pattern = template.unwrap().resolve(client).unwrap();

            assert!(pattern.matches(TopicName::new("d/%{cn}").unwrap()));
        }
    }

    #[test]
    fn wildcards_match_as_in_subscriptions_and_never_a_dollar_topic() {
        // [MQTT-4.7.2-1] [B04]
        for (template, topic, expected) in [
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("#", "$queue/a", false),
            ("+/x", "$delayed/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/#", "$SYS", true),
            ("a/#", "a", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("a/+/c", "a/b/c", true),
            ("a", "a/b", false),
        ] {
            let matches = pattern(template, "u", "c").matches(TopicName::new(topic).unwrap());

            assert_eq!(matches, expected, "{template} and {topic}");
        }
    }

    #[test]
    fn a_pattern_covers_a_filter_only_if_it_covers_everything_that_the_filter_matches() {
        // [B05]
        for (template, filter, expected) in [
            ("a/#", "a/#", true),
            ("a/#", "a/b/+", true),
            ("a/#", "a", true),
            ("a/#", "#", false),
            ("a/+", "a/+", true),
            ("a/+", "a/b", true),
            ("a/+", "a/#", false),
            ("a/b", "a/+", false),
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/b/#", "a", false),
            ("#", "#", true),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
        ] {
            let covers = pattern(template, "u", "c").covers(TopicFilter::new(filter).unwrap());

            assert_eq!(covers, expected, "{template} and {filter}");
        }
    }

    #[test]
    fn nothing_is_put_into_a_literal_filter() {
        let pattern = Template::literal("u/%u").unwrap().resolve(names(None, "c")).unwrap();

        assert!(pattern.matches(TopicName::new("u/%u").unwrap()));
        assert!(!pattern.matches(TopicName::new("u/").unwrap()));
    }

    #[test]
    fn what_is_no_filter_is_no_template() {
        assert_eq!(Template::new("a/#/b"), Err(TemplateError::NotAFilter));
        assert_eq!(Template::new(""), Err(TemplateError::NotAFilter));
        assert_eq!(Template::new("$share/g/a"), Err(TemplateError::Shared));
    }
}
