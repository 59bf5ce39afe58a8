//! What a service answers: yes, no, or that others may say, and what the client may do.
//!
//! Invariant: an answer that would restrict a client in words that are not understood is no answer.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use veilmq_core::{Actions, Rule, RuleEffect, RuleStage, Rules, Subject, Template};

/// The most bytes of an answer that are read.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;
const OK: u16 = 200;
const NO_CONTENT: u16 = 204;
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;

/// What a service says about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is who it says.
    Allow(Grant),
    /// It is not.
    Deny,
    /// The service does not know it; others may.
    Next,
}

/// What a client is granted that is who it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grant {
    /// What it may do; None leaves it at what the broker's own rules say.
    pub(super) rules: Option<Rules>,
    /// When its connection ends, in unix seconds.
    pub(super) expire_at: Option<u64>,
}

/// Why what came back is no answer; without what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerFault {
    #[error("its status is {0}")]
    Status(u16),
    #[error("it is not JSON as documented")]
    Malformed,
    #[error("it has neither `result` nor `ok`, or has both")]
    Result,
    #[error("`acl` and `modifiers` are not understood")]
    Foreign,
    #[error("a topic in it is not a Topic Filter, or names a group")]
    Topic,
}

#[derive(Deserialize)]
struct Document {
    result: Option<Value>,
    ok: Option<bool>,
    expire_at: Option<u64>,
    publish: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
    deny_publish: Option<Vec<String>>,
    deny_subscribe: Option<Vec<String>>,
    acl: Option<IgnoredAny>,
    modifiers: Option<Value>,
}

impl Grant {
    /// Returns for how many milliseconds more it holds at a moment of the wall clock; None if it does not end.
    pub(super) fn time_left(&self, now_unix_ms: u64) -> Option<u64> {
        self.expire_at.map(|seconds| seconds.saturating_mul(1_000).saturating_sub(now_unix_ms))
    }
}

impl Answer {
    /// Reads what came back. With `strict` a SUBSCRIBE is refused where the rules do not allow the whole filter.
    ///
    /// # Errors
    /// [`AnswerFault`].
    pub(super) fn parse(status: u16, body: &[u8], strict: bool) -> Result<Self, AnswerFault> {
        match status {
            OK => Self::parse_document(body, strict),
            NO_CONTENT => Ok(Self::Allow(Grant::default())),
            UNAUTHORIZED | FORBIDDEN => Ok(Self::Deny),
            other => Err(AnswerFault::Status(other)),
        }
    }

    fn parse_document(body: &[u8], strict: bool) -> Result<Self, AnswerFault> {
        let document: Document = serde_json::from_slice(body).map_err(|_| AnswerFault::Malformed)?;
        let result = match (&document.result, document.ok) {
            (Some(Value::String(text)), None) => text.as_str(),
            (Some(Value::Object(result)), None) if result.contains_key("error") => "deny",
            (None, Some(true)) => "allow",
            (None, Some(false)) => "deny",
            (Some(_), _) | (None, None) => return Err(AnswerFault::Result),
        };
        match result {
            "allow" | "ok" => document.grant(strict).map(Self::Allow),
            "deny" => Ok(Self::Deny),
            "ignore" | "next" => Ok(Self::Next),
            _ => Err(AnswerFault::Result),
        }
    }
}

impl Document {
    fn grant(self, strict: bool) -> Result<Grant, AnswerFault> {
        let is_empty = |modifiers: &Value| {
            modifiers.as_object().is_some_and(serde_json::Map::is_empty)
                || modifiers.as_array().is_some_and(Vec::is_empty)
        };
        if self.acl.is_some() || !self.modifiers.as_ref().is_none_or(is_empty) {
            return Err(AnswerFault::Foreign);
        }
        let lists = [
            (self.publish, RuleEffect::Allow, Actions { publish: true, receive: false }),
            (self.subscribe, RuleEffect::Allow, Actions { publish: false, receive: true }),
            (self.deny_publish, RuleEffect::Deny, Actions { publish: true, receive: false }),
            (self.deny_subscribe, RuleEffect::Deny, Actions { publish: false, receive: true }),
        ];
        let has_rules = lists.iter().any(|(list, ..)| list.is_some());
        let mut stage = RuleStage::default();
        for (list, effect, actions) in lists {
            for topic in list.unwrap_or_default() {
                let filter = Template::new(&topic).map_err(|_| AnswerFault::Topic)?;
                stage.rules.push(Rule { subject: Subject::Everyone, effect, actions, filter });
            }
        }
        let rules = has_rules.then(|| Rules::new(vec![stage], strict));
        Ok(Grant { rules, expire_at: self.expire_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(status: u16, body: &str) -> Result<Answer, AnswerFault> {
        Answer::parse(status, body.as_bytes(), true)
    }

    #[test]
    fn yes_and_no_are_said_in_the_words_of_several_brokers() {
        let plain = || Ok(Answer::Allow(Grant::default()));
        for (status, body, expected) in [
            (204, "", plain()),
            (200, r#"{"result":"allow"}"#, plain()),
            (200, r#"{"result":"allow","is_superuser":true,"client_attrs":{}}"#, plain()),
            (200, r#"{"result":"ok","modifiers":{}}"#, plain()),
            (200, r#"{"result":"ok","modifiers":[]}"#, plain()),
            (200, r#"{"ok":true,"error":""}"#, plain()),
            (200, r#"{"result":"deny"}"#, Ok(Answer::Deny)),
            (200, r#"{"result":{"error":"not_allowed"}}"#, Ok(Answer::Deny)),
            (200, r#"{"ok":false,"error":"no"}"#, Ok(Answer::Deny)),
            (401, "", Ok(Answer::Deny)),
            (403, "<html>", Ok(Answer::Deny)),
            (200, r#"{"result":"ignore"}"#, Ok(Answer::Next)),
            (200, r#"{"result":"next"}"#, Ok(Answer::Next)),
        ] {
            assert_eq!(parse(status, body), expected, "{status} {body}");
        }
        let Ok(Answer::Allow(grant)) = parse(200, r#"{"result":"allow","expire_at":1000000000}"#) else {
            panic!("it is allowed")
        };
        assert_eq!((grant.expire_at, grant.rules.is_none()), (Some(1_000_000_000), true));
    }

    #[test]
    fn what_is_not_understood_is_no_answer() {
        for (status, body, expected) in [
            (200, "", AnswerFault::Malformed),
            (200, "ok", AnswerFault::Malformed),
            (200, "<html>", AnswerFault::Malformed),
            (200, "[]", AnswerFault::Malformed),
            (200, "{}", AnswerFault::Result),
            (200, r#"{"result":"yes"}"#, AnswerFault::Result),
            (200, r#"{"result":true}"#, AnswerFault::Result),
            (200, r#"{"result":{}}"#, AnswerFault::Result),
            (200, r#"{"result":"allow","ok":true}"#, AnswerFault::Result),
            (200, r#"{"result":"allow","acl":[]}"#, AnswerFault::Foreign),
            (200, r#"{"result":"ok","modifiers":{"mountpoint":"x"}}"#, AnswerFault::Foreign),
            (200, r#"{"result":"allow","publish":["a/#/b"]}"#, AnswerFault::Topic),
            (200, r#"{"result":"allow","subscribe":["$share/g/a"]}"#, AnswerFault::Topic),
            (200, r#"{"result":"allow","publish":"a"}"#, AnswerFault::Malformed),
            (200, r#"{"result":"allow","expire_at":"soon"}"#, AnswerFault::Malformed),
            (302, r#"{"result":"allow"}"#, AnswerFault::Status(302)),
            (404, "", AnswerFault::Status(404)),
            (500, r#"{"result":"allow"}"#, AnswerFault::Status(500)),
            (201, r#"{"result":"allow"}"#, AnswerFault::Status(201)),
        ] {
            assert_eq!(parse(status, body), Err(expected), "{status} {body}");
        }
    }

    #[test]
    fn one_list_is_enough_to_deny_what_no_list_allows() {
        for body in [
            r#"{"result":"allow","publish":[]}"#,
            r#"{"ok":true,"deny_subscribe":["a"]}"#,
            r#"{"result":"ok","publish":["a/%u"],"subscribe":["b/%c/#"],"deny_publish":[],"deny_subscribe":[]}"#,
        ] {
            let Ok(Answer::Allow(grant)) = parse(200, body) else { panic!("{body} is allowed") };

            assert!(grant.rules.is_some(), "{body}");
        }
    }
}
