//! Files in TOML: rules of our own, and configurations of the broker with policies.

use ::toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{Compiler, Fault, Form, Kind};

/// The lists of filters that whoever is allowed or denied something has.
const LISTS: [&str; 4] = ["publish", "subscribe", "deny_publish", "deny_subscribe"];

/// Where things stand in the source.
struct Place<'a> {
    text: &'a str,
    compiler: &'a Compiler,
}

/// Compiles a file; everything in it but rules and policies stays as it is.
pub(super) fn compile(text: &str, compiler: &Compiler) -> Result<String, Fault> {
    let place = Place { text, compiler };
    let malformed = |error: ::toml::de::Error| {
        place.fault(error.span().map_or(0, |span| span.start), error.message().to_owned())
    };
    let mut document: Table = ::toml::from_str(text).map_err(malformed)?;
    let spans = DeTable::parse(text).map_err(malformed)?;
    let mut found = false;
    for name in ["everyone", "anonymous"] {
        let Some((Value::Table(holder), spans)) = document.get_mut(name).zip(table(spans.get_ref(), name))
        else {
            continue;
        };
        found = true;
        place.lists(holder, spans)?;
    }
    for group in ["roles", "users"] {
        let Some((Value::Table(holders), spans)) = document.get_mut(group).zip(table(spans.get_ref(), group))
        else {
            continue;
        };
        found = true;
        for (name, holder) in holders {
            if let Some((holder, spans)) = holder.as_table_mut().zip(table(spans, name)) {
                place.lists(holder, spans)?;
            }
        }
    }
    let e2e = document.get_mut("e2e").and_then(Value::as_table_mut).zip(table(spans.get_ref(), "e2e"));
    if let Some((Value::Array(policies), spans)) = e2e.and_then(|(e2e, spans)| {
        e2e.get_mut("policies").zip(get(spans, "policies").and_then(|policies| policies.get_ref().as_array()))
    }) {
        found = true;
        let mut compiled = Vec::new();
        for (policy, spans) in policies.iter().zip(spans.iter()) {
            compiled.extend(place.policy(policy, spans)?);
        }
        *policies = compiled;
    }
    if !found {
        return Err(place.fault(0, "there are neither rules nor policies in it".to_owned()));
    }
    ::toml::to_string(&document).map_err(|error| place.fault(0, error.to_string()))
}

impl Place<'_> {
    fn fault(&self, at: usize, what: String) -> Fault {
        let before = self.text.get(..at).unwrap_or(self.text);
        Fault { line: before.matches('\n').count() + 1, what }
    }

    fn lists(&self, holder: &mut Table, spans: &DeTable<'_>) -> Result<(), Fault> {
        for list in LISTS {
            let given = get(spans, list).and_then(|list| list.get_ref().as_array());
            let Some((Value::Array(filters), given)) = holder.get_mut(list).zip(given) else { continue };
            let mut compiled = Vec::new();
            for filter in given {
                compiled.extend(self.forms(filter, true)?.into_iter().map(|form| Value::String(form.filter)));
            }
            *filters = compiled;
        }
        Ok(())
    }

    /// A policy for each form of its topics; its scope goes with them.
    fn policy(&self, policy: &Value, spans: &Spanned<DeValue<'_>>) -> Result<Vec<Value>, Fault> {
        let (Value::Table(policy), DeValue::Table(given)) = (policy, spans.get_ref()) else {
            return Err(self.fault(spans.span().start, "a policy is a table".to_owned()));
        };
        let topics = get(given, "topics")
            .ok_or_else(|| self.fault(spans.span().start, "the policy names no topics".to_owned()))?;
        let forms: Vec<Form> =
            self.forms(topics, false)?.into_iter().filter(|form| form.kind != Kind::Distribution).collect();
        let scope = get(given, "scope").map(|scope| self.forms(scope, false)).transpose()?;
        let several = forms.len() > 1;
        let mut compiled = Vec::new();
        for Form { filter, kind } in forms {
            let mut one = policy.clone();
            if let Some(scopes) = &scope {
                let same = scopes.iter().find(|form| form.kind == kind).map(|form| form.filter.clone());
                let source = || policy.get("scope").and_then(Value::as_str).unwrap_or_default().to_owned();
                one.insert("scope".to_owned(), Value::String(same.unwrap_or_else(source)));
            }
            if let (true, Kind::Blind(epoch), Some(Value::String(name))) =
                (several, kind, one.get_mut("name"))
            {
                name.push_str(&format!("-{:04x}", epoch & 0xFFFF));
            }
            one.insert("topics".to_owned(), Value::String(filter));
            compiled.push(Value::Table(one));
        }
        Ok(compiled)
    }

    fn forms(&self, filter: &Spanned<DeValue<'_>>, is_template: bool) -> Result<Vec<Form>, Fault> {
        let at = filter.span().start;
        let text =
            filter.get_ref().as_str().ok_or_else(|| self.fault(at, "a filter is a text".to_owned()))?;
        self.compiler.forms(text, is_template).map_err(|what| self.fault(at, what))
    }
}

fn get<'a, 'i>(table: &'a DeTable<'i>, name: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
}

fn table<'a, 'i>(within: &'a DeTable<'i>, name: &str) -> Option<&'a DeTable<'i>> {
    get(within, name).and_then(|value| value.get_ref().as_table())
}
