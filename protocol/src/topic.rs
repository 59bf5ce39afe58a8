//! Topic Names, Topic Filters and how they match (MQTT 5.0 section 4.7 and 4.8.2).
//!
//! Both types hold text that has passed its rules, so no one downstream checks again.

use core::{fmt, str::Split};

/// Says why text is not a Topic Name or a Topic Filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Topic Names and Topic Filters have at least one character ([MQTT-4.7.3-1]).
    #[error("the topic is empty")]
    Empty,
    /// They have at most 65,535 bytes ([MQTT-4.7.3-3]).
    #[error("the topic is longer than 65,535 bytes")]
    TooLong,
    /// They hold no U+0000 ([MQTT-4.7.3-2]).
    #[error("the topic holds U+0000")]
    HoldsNul,
    /// A wildcard in a Topic Name ([MQTT-4.7.0-1]), or one that is not alone in its level or not last ([MQTT-4.7.1-1],
    /// [MQTT-4.7.1-2]).
    #[error("a wildcard character is misplaced")]
    Wildcard,
    /// A Shared Subscription without a share name and a filter, or with `+` or `#` in the share name
    /// ([MQTT-4.8.2-1], [MQTT-4.8.2-2]).
    #[error("the Shared Subscription is malformed")]
    ShareName,
}

/// A valid Topic Name: 1 to 65,535 bytes, no wildcard, no U+0000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks a Topic Name.
    ///
    /// # Errors
    /// [`TopicError`] except [`TopicError::ShareName`].
    pub fn new(name: &'a str) -> Result<Self, TopicError> {
        check_length(name)?;
        if !holds_nul_or_wildcard(name.as_bytes()) {
            return Ok(Self(name));
        }
        Err(if name.as_bytes().contains(&0) { TopicError::HoldsNul } else { TopicError::Wildcard })
    }

    /// The text.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The topic levels, which may be empty strings.
    pub fn levels(self) -> Split<'a, char> {
        self.0.split('/')
    }

    /// Says whether the name begins with `$`, which leading wildcards do not match.
    #[must_use]
    pub fn is_dollar(self) -> bool {
        self.0.starts_with('$')
    }
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A valid Topic Filter, shared or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

/// The two halves of the filter of a Shared Subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedFilter<'a> {
    /// Names the group of subscribers that share the messages.
    pub share_name: &'a str,
    /// What the messages match.
    pub filter: TopicFilter<'a>,
}

impl<'a> TopicFilter<'a> {
    /// Checks a Topic Filter. A first level of `$share` makes it that of a Shared Subscription.
    ///
    /// # Errors
    /// Any [`TopicError`].
    pub fn new(filter: &'a str) -> Result<Self, TopicError> {
        check_length(filter)?;
        if filter.as_bytes().contains(&0) {
            return Err(TopicError::HoldsNul);
        }
        match filter.split_once('/') {
            Some((SHARE, rest)) => {
                let (share_name, inner) = rest.split_once('/').ok_or(TopicError::ShareName)?;
                if share_name.is_empty() || share_name.contains(['+', '#']) || inner.is_empty() {
                    return Err(TopicError::ShareName);
                }
                check_wildcards(inner)?;
            }
            None if filter == SHARE => return Err(TopicError::ShareName),
            _ => check_wildcards(filter)?,
        }
        Ok(Self(filter))
    }

    /// The text, with `$share` and the share name if there are any.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels of the text, which may be empty strings.
    pub fn levels(self) -> Split<'a, char> {
        self.0.split('/')
    }

    /// Says whether the filter can match more than one Topic Name.
    #[must_use]
    pub fn has_wildcards(self) -> bool {
        self.0.contains(['+', '#'])
    }

    /// The share name and inner filter of a Shared Subscription; `None` for an ordinary filter.
    #[must_use]
    pub fn shared(self) -> Option<SharedFilter<'a>> {
        let (share_name, filter) = self.0.strip_prefix(SHARE)?.strip_prefix('/')?.split_once('/')?;
        Some(SharedFilter { share_name, filter: Self(filter) })
    }

    /// The filter that topics are compared with: without `$share` and the share name if there are any.
    #[must_use]
    pub fn inner(self) -> Self {
        self.shared().map_or(self, |shared| shared.filter)
    }

    /// Says whether messages on `topic` go to this filter; for a Shared Subscription, to its inner filter.
    #[must_use]
    pub fn matches(self, topic: TopicName<'_>) -> bool {
        let filter = self.inner();
        // [MQTT-4.7.2-1]
        if topic.is_dollar() && filter.0.starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.levels();
        for level in filter.levels() {
            match (level, names.next()) {
                // [MQTT-4.7.1-2] `#` also stands for the parent level itself.
                ("#", _) => return true,
                ("+", Some(_)) => {}
                // [MQTT-4.7.3-4]
                (exact, Some(name)) if exact == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

impl fmt::Display for TopicFilter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Looks at eight bytes at a time: every PUBLISH passes here.
fn holds_nul_or_wildcard(name: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGH_BITS: u64 = ONES << 7;
    /// `+` and `#` differ in this bit alone.
    const DIFFERENCE: u8 = b'+' ^ b'#';
    let has_zero_byte = |word: u64| word.wrapping_sub(ONES) & !word & HIGH_BITS != 0;
    let holds = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        let wildcards_as_zero = (word & !(ONES * u64::from(DIFFERENCE))) ^ (ONES * u64::from(b'#'));
        has_zero_byte(word) || has_zero_byte(wildcards_as_zero)
    };
    match name.last_chunk() {
        // The last word may overlap the one before it.
        Some(last) => name.as_chunks().0.iter().any(holds) || holds(last),
        None => name.iter().any(|&byte| byte == 0 || byte & !DIFFERENCE == b'#'),
    }
}

const SHARE: &str = "$share";

fn check_length(topic: &str) -> Result<(), TopicError> {
    match topic.len() {
        0 => Err(TopicError::Empty),
        1..=0xFFFF => Ok(()),
        _ => Err(TopicError::TooLong),
    }
}

fn check_wildcards(filter: &str) -> Result<(), TopicError> {
    let mut levels = filter.split('/');
    while let Some(level) = levels.next() {
        let misplaced = match level {
            "#" => levels.next().is_some(),
            "+" => false,
            text => text.contains(['+', '#']),
        };
        if misplaced {
            return Err(TopicError::Wildcard);
        }
    }
    Ok(())
}
