//! ACL files in Mosquitto's format: `user`, `topic` and `pattern` lines.

use super::{Compiler, Fault};

/// Compiles a file; comments and empty lines are left out.
pub(super) fn compile(text: &str, compiler: &Compiler) -> Result<String, Fault> {
    let mut compiled = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for line in rule(line, compiler).map_err(|what| Fault { line: index + 1, what })? {
            compiled.push_str(&line);
            compiled.push('\n');
        }
    }
    Ok(compiled)
}

fn rule(line: &str, compiler: &Compiler) -> Result<Vec<String>, String> {
    let (keyword, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let rest = rest.trim_start();
    let is_template = match keyword {
        "user" if rest.is_empty() => return Err("there is no name behind `user`".into()),
        "user" => return Ok(vec![line.to_owned()]),
        "topic" => false,
        "pattern" => true,
        _ => return Err("a line begins with `user`, `topic` or `pattern`".into()),
    };
    if rest.is_empty() {
        return Err("there is no topic".into());
    }
    let (access, filter) = match rest.split_once([' ', '\t']) {
        None => ("readwrite", rest),
        Some((access, filter)) => (access, filter.trim_start()),
    };
    if !matches!(access, "read" | "write" | "readwrite" | "deny") {
        return Err("before the topic stands `read`, `write`, `readwrite`, `deny` or nothing".into());
    }
    let forms = compiler.forms(filter, is_template)?;
    Ok(forms.into_iter().map(|form| format!("{keyword} {access} {}", form.filter)).collect())
}
