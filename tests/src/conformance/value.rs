//! The words of a line and the values of its fields.
//!
//! Invariant: what [`Value`] writes with `Display` can be read back as the same value.

use std::fmt;

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    /// Both ends belong to it.
    Range(u64, u64),
    /// Text or binary data; it need not be UTF-8.
    Text(Vec<u8>),
    Pair(Vec<u8>, Vec<u8>),
    Codes(Vec<u8>),
    /// `$name`.
    Variable(String),
    /// Nothing: the field must not be there.
    Absent,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Range(least, most) => write!(f, "{least}..{most}"),
            Self::Text(text) => write_text(f, text),
            Self::Pair(name, value) => {
                write_text(f, name)?;
                f.write_str(":")?;
                write_text(f, value)
            }
            Self::Codes(codes) => {
                let codes: Vec<String> = codes.iter().map(|code| format!("0x{code:02x}")).collect();
                f.write_str(&codes.join(","))
            }
            Self::Variable(name) => write!(f, "${name}"),
            Self::Absent => f.write_str("absent"),
        }
    }
}

/// The longest text that is shown in full.
const SHOWN_BYTES_MAX: usize = 80;

fn write_text(f: &mut fmt::Formatter<'_>, text: &[u8]) -> fmt::Result {
    if text.len() > SHOWN_BYTES_MAX {
        write_text(f, &text[..SHOWN_BYTES_MAX])?;
        return write!(f, "...({} bytes)", text.len());
    }
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"/+#$._-".contains(&byte);
    if !text.is_empty() && text.iter().all(|byte| is_bare(*byte)) {
        return f.write_str(&String::from_utf8_lossy(text));
    }
    write!(f, "\"{}\"", text.escape_ascii())
}

/// Splits a line at white space outside of quotes.
pub(super) fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut is_quoted, mut is_escaped) = (None, false, false);
    for (index, character) in line.char_indices() {
        if character.is_whitespace() && !is_quoted {
            words.extend(start.take().map(|start| &line[start..index]));
            continue;
        }
        start.get_or_insert(index);
        is_quoted ^= character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
    }
    words.extend(start.map(|start| &line[start..]));
    words
}

/// Reads a number, decimal or `0x`.
pub(super) fn number(word: &str) -> Result<u64, String> {
    let digits = word.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
    digits.unwrap_or_else(|| word.parse()).map_err(|_| format!("{word} is not a number"))
}

/// Reads text: bare, quoted with escapes, `hex:00ff`, or `x*1000`.
pub(super) fn text(word: &str) -> Result<Vec<u8>, String> {
    if let Some(rest) = word.strip_prefix('"') {
        return match quoted(rest)? {
            (text, "") => Ok(text),
            (_, rest) => Err(format!("{rest} follows the closing quote")),
        };
    }
    if let Some(digits) = word.strip_prefix("hex:") {
        return bytes([digits]);
    }
    let mut characters = word.chars();
    let repeated = (characters.next(), characters.as_str().strip_prefix('*'));
    match repeated {
        (Some(character), Some(count)) if !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit()) => {
            let count = count.parse().map_err(|_| format!("{count} is too large"))?;
            Ok(character.to_string().repeat(count).into_bytes())
        }
        _ => Ok(word.as_bytes().to_vec()),
    }
}

/// Reads `name:value`, either of which may be quoted.
pub(super) fn pair(word: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (name, rest) = match word.strip_prefix('"') {
        Some(rest) => quoted(rest)?,
        None => {
            let (name, rest) = word.split_at(word.find(':').unwrap_or(word.len()));
            (name.as_bytes().to_vec(), rest)
        }
    };
    let value = rest.strip_prefix(':').ok_or_else(|| format!("{word} is not name:value"))?;
    Ok((name, text(value)?))
}

/// Reads hexadecimal digits, in pairs.
pub(super) fn bytes<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for word in words {
        let is_hexadecimal = word.len() % 2 == 0 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hexadecimal {
            return Err(format!("{word} is not pairs of hexadecimal digits"));
        }
        for start in (0..word.len()).step_by(2) {
            let byte = u8::from_str_radix(&word[start..start + 2], 16);
            bytes.push(byte.map_err(|error| error.to_string())?);
        }
    }
    Ok(bytes)
}

/// Reads up to the closing quote; returns what follows it too.
fn quoted(rest: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut characters = rest.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Ok((bytes, characters.as_str())),
            '\\' => bytes.push(escape(&mut characters)?),
            _ => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err("the closing quote is missing".to_owned())
}

fn escape(characters: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match characters.next() {
        Some('x') => {
            let digits: String = characters.by_ref().take(2).collect();
            u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits} is not an escape"))
        }
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('t') => Ok(b'\t'),
        Some('0') => Ok(0),
        Some(character @ ('"' | '\\' | '\'')) => Ok(character as u8),
        other => Err(format!("\\{} is not an escape", other.unwrap_or(' '))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_a_word_together() {
        assert_eq!(
            words(r#"a  > PUBLISH payload="x \" y" id=1"#),
            ["a", ">", "PUBLISH", r#"payload="x \" y""#, "id=1"]
        );
    }

    #[test]
    fn text_has_four_forms() {
        let rows: [(&str, &[u8]); 5] = [
            ("a/b", b"a/b"),
            (r#""a \x00\"""#, b"a \x00\""),
            ("hex:00ff", b"\x00\xff"),
            ("/*3", b"///"),
            ("a*b", b"a*b"),
        ];

        for (word, bytes) in rows {
            assert_eq!(text(word).unwrap(), bytes, "{word}");
        }
    }

    #[test]
    fn a_pair_is_split_at_the_first_colon_outside_of_quotes() {
        assert_eq!(pair("k:v:w").unwrap(), (b"k".to_vec(), b"v:w".to_vec()));
        assert_eq!(pair(r#""k:l":"""#).unwrap(), (b"k:l".to_vec(), Vec::new()));
        assert!(pair("k").unwrap_err().contains("name:value"));
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        for bytes in [&b"a/b"[..], b"", b"a \x00\xff\"\\\n", "ä".as_bytes()] {
            let shown = Value::Text(bytes.to_vec()).to_string();
            assert_eq!(text(&shown).unwrap(), bytes, "{shown}");
        }
    }
}
