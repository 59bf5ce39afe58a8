//! Mosquitto's ACL files: what the lines mean there, they mean here.
//!
//! First come the lines of the client's user, or those before the first `user` for a client without one; then the `pattern`
//! lines. In each what denies goes first, and what nothing allows is denied, all of it in an empty file [CVE-2018-12550].
//! Invariant: a line that is not understood is an error, never passed over.

use std::path::Path;

use veilmq_core::{Actions, Rule, RuleEffect, RuleStage, Subject, Template};

use super::rules_file::RulesFileError;

/// Reads an ACL file.
///
/// # Errors
/// [`RulesFileError`], naming file and line.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<RuleStage>, RulesFileError> {
    let mut own = RuleStage::default();
    let mut patterns = RuleStage { denies_wildcard_names: true, ..RuleStage::default() };
    let mut subject = Subject::Anonymous;
    for (index, line) in text.lines().enumerate() {
        let fault = |what: String| RulesFileError::Line { path: path.into(), line: index + 1, what };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (keyword, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim_start();
        match keyword {
            "user" if rest.is_empty() => return Err(fault("there is no name behind `user`".into())),
            "user" => subject = Subject::User(rest.into()),
            "topic" => own.rules.push(rule(subject.clone(), rest, true).map_err(fault)?),
            "pattern" => patterns.rules.push(rule(Subject::Everyone, rest, false).map_err(fault)?),
            _ => return Err(fault("a line begins with `user`, `topic` or `pattern`".into())),
        }
    }
    Ok(vec![own, patterns])
}

/// Reads `[read|write|readwrite|deny] <filter>`, in which the filter may hold spaces.
fn rule(subject: Subject, text: &str, is_literal: bool) -> Result<Rule, String> {
    if text.is_empty() {
        return Err("there is no topic".into());
    }
    let (access, filter) = match text.split_once([' ', '\t']) {
        None => ("readwrite", text),
        Some((access, filter)) => (access, filter.trim_start()),
    };
    let (effect, publish, receive) = match access {
        "read" => (RuleEffect::Allow, false, true),
        "write" => (RuleEffect::Allow, true, false),
        "readwrite" => (RuleEffect::Allow, true, true),
        "deny" => (RuleEffect::Deny, true, true),
        _ => return Err("before the topic stands `read`, `write`, `readwrite`, `deny` or nothing".into()),
    };
    let filter = match is_literal {
        true => Template::literal(filter),
        false => Template::with_names(filter),
    };
    let filter = filter.map_err(|error| format!("the topic cannot be used: {error}"))?;
    Ok(Rule { subject, effect, actions: Actions { publish, receive }, filter })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Vec<RuleStage>, String> {
        parse(Path::new("acl"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_before_the_first_user_are_for_clients_without_one_and_patterns_for_everybody() {
        let text = "# comment\n\ntopic read open/a b\npattern write %u/x\nuser ann lee\n  topic deny a/#\ntopic\tread b \nuser bob\ntopic c\n";

        let stages = parse_text(text).unwrap();

        let rule = |subject, effect, publish, receive, filter: &str| {
            let filter = Template::literal(filter).unwrap();
            Rule { subject, effect, actions: Actions { publish, receive }, filter }
        };
        let (ann, bob) = (Subject::User("ann lee".into()), Subject::User("bob".into()));
        assert_eq!(
            stages[0].rules,
            [
                rule(Subject::Anonymous, RuleEffect::Allow, false, true, "open/a b"),
                rule(ann.clone(), RuleEffect::Deny, true, true, "a/#"),
                rule(ann, RuleEffect::Allow, false, true, "b"),
                rule(bob, RuleEffect::Allow, true, true, "c"),
            ]
        );
        assert_eq!(stages[1].rules.len(), 1);
        assert_eq!(stages[1].rules[0].subject, Subject::Everyone);
        assert_eq!(stages[1].rules[0].filter, Template::with_names("%u/x").unwrap());
        assert!(stages[1].denies_wildcard_names && !stages[0].denies_wildcard_names);
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error_that_names_file_and_line() {
        // [B09]
        for (text, line, what) in [
            ("topic", 1, "there is no topic"),
            ("user ann\n\nuser", 3, "no name behind `user`"),
            ("topics a", 1, "a line begins with"),
            ("topic reed a", 1, "before the topic stands"),
            ("topic read a/#/b", 1, "not a Topic Filter"),
            ("topic read $share/g/a", 1, "names a group"),
            ("#ok\npattern", 2, "there is no topic"),
        ] {
            let error = parse_text(text).err().unwrap_or_else(|| panic!("{text} was taken"));

            assert!(error.starts_with(&format!("acl:{line}: ")), "{error}");
            assert!(error.contains(what), "{error}");
        }
    }
}
