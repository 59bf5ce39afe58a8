//! The article's wire format: `IV || AES-256-CBC(PKCS#7(JSON))` (VEIL-1 section 11).
//!
//! For interoperability only. Nothing in it is authenticated: whoever can reach the broker can change, repeat
//! or move a message without any key, and the sequence number inside the JSON changes with it. Opening has one
//! error for every cause, and its result is always labelled as unauthenticated.

use std::collections::BTreeMap;

use serde_json::Value;
use veilmq_protocol::{TopicName, veil::channel::Secret32};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{
    cipher::{IV_BYTES, cbc_decrypt, cbc_encrypt},
    error::{OpenError, SealError},
};

/// The key of an article scope.
#[derive(ZeroizeOnDrop)]
pub enum ArticleKey {
    /// Topic keys are derived from a master secret.
    Master(ArticleMaster),
    /// One raw AES-256 key for every topic of the scope.
    Raw(Secret32),
}

impl ArticleKey {
    /// Derives topic keys from `master` as the article does, with an empty salt.
    pub fn master(master: &[u8]) -> Self {
        Self::master_with_salt(master, &[])
    }

    /// Derives topic keys from `master` with a salt that all parties have configured.
    pub fn master_with_salt(master: &[u8], salt: &[u8]) -> Self {
        Self::Master(ArticleMaster { master: Zeroizing::new(master.into()), salt: salt.into() })
    }

    fn topic_key(&self, topic: TopicName<'_>) -> Secret32 {
        match self {
            Self::Master(master) => master.topic_key(topic),
            Self::Raw(key) => Secret32::new(key.as_bytes()),
        }
    }
}

/// The master secret and salt of an article scope; erased when dropped.
#[derive(ZeroizeOnDrop)]
pub struct ArticleMaster {
    master: Zeroizing<Box<[u8]>>,
    salt: Box<[u8]>,
}

impl ArticleMaster {
    /// `HKDF-SHA256(ikm = master, salt, info = topic, L = 32)`.
    fn topic_key(&self, topic: TopicName<'_>) -> Secret32 {
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Hkdf::<sha2::Sha256>::new(Some(&self.salt), &self.master)
            .expand(topic.as_str().as_bytes(), key.as_mut_slice())
            .expect("32 bytes are less than the 8,160 that HKDF-SHA256 can give");
        Secret32::new(&key)
    }
}

/// The key an article scope seals with, and the one it still accepts while it is being replaced.
///
/// ```
/// use veilmq_client::e2e::{ArticleKey, ArticleKeys};
/// use veilmq_protocol::TopicName;
///
/// let topic = TopicName::new("factory/line-3/sensor/temperature").unwrap();
/// let keys = ArticleKeys::new(ArticleKey::master(&[7; 32]));
///
/// let payload = keys.encrypt(topic, br#"{"t":21.5}"#, [9; 16])?;
///
/// assert_eq!(payload.len(), 32);
/// assert_eq!(keys.decrypt(topic, &payload, 0).unwrap(), br#"{"t":21.5}"#);
/// # Ok::<(), veilmq_client::e2e::SealError>(())
/// ```
pub struct ArticleKeys {
    current: ArticleKey,
    previous: Option<(ArticleKey, u64)>,
    next: Option<Next>,
    /// The last sequence number of each topic, where messages are numbered.
    numbers: Option<BTreeMap<Box<str>, u64>>,
}

/// The key that follows.
struct Next {
    key: ArticleKey,
    activate_ms: u64,
    transition_ms: u64,
}

impl ArticleKeys {
    /// Seals and opens with one key.
    pub fn new(current: ArticleKey) -> Self {
        Self { current, previous: None, next: None, numbers: None }
    }

    /// Also opens with the key that was replaced, until `until_unix_ms`.
    #[must_use]
    pub fn accepting(mut self, previous: ArticleKey, until_unix_ms: u64) -> Self {
        self.previous = Some((previous, until_unix_ms));
        self
    }

    /// Puts a sequence number into every JSON object that has none, as the article does. Numbers begin with the time in
    /// milliseconds, so that a restart repeats none.
    #[must_use]
    pub fn numbering(mut self) -> Self {
        self.numbers = Some(BTreeMap::new());
        self
    }

    /// Seals with another key from `activate_unix_ms` on. It opens at once, since others may be ahead; the one it replaces
    /// opens for `transition_ms` after that.
    pub fn rotate(&mut self, next: ArticleKey, activate_unix_ms: u64, transition_ms: u64) {
        self.next = Some(Next { key: next, activate_ms: activate_unix_ms, transition_ms });
    }

    /// Takes the next key into use and erases the previous one, each when it is time; returns when that is.
    pub(super) fn advance(&mut self, now_unix_ms: u64) -> Option<u64> {
        if let Some(next) = self.next.take_if(|next| now_unix_ms >= next.activate_ms) {
            let replaced = std::mem::replace(&mut self.current, next.key);
            self.previous = Some((replaced, next.activate_ms.saturating_add(next.transition_ms)));
        }
        self.previous.take_if(|(_, until_ms)| now_unix_ms >= *until_ms);
        let erase = self.previous.as_ref().map(|(_, until_ms)| *until_ms);
        let activate = self.next.as_ref().map(|next| next.activate_ms);
        [erase, activate].into_iter().flatten().min()
    }

    /// Encrypts a JSON text with the key of this moment, numbered if messages are.
    pub(super) fn seal(
        &mut self,
        topic: TopicName<'_>,
        json: &[u8],
        now_unix_ms: u64,
        iv: [u8; IV_BYTES],
    ) -> Result<Vec<u8>, SealError> {
        self.advance(now_unix_ms);
        let numbered = self.numbers.as_mut().and_then(|numbers| {
            let text = std::str::from_utf8(json).ok()?;
            let number = numbers.get(topic.as_str()).map_or(now_unix_ms, |last| last.saturating_add(1));
            let numbered = with_sequence_number(text, number).ok()?;
            numbers.insert(topic.as_str().into(), number);
            Some(numbered)
        });
        self.encrypt(topic, numbered.as_ref().map_or(json, |text| text.as_bytes()), iv)
    }

    /// Encrypts a JSON text under `iv`, which must be random and never used again.
    ///
    /// # Errors
    /// [`SealError::NotJson`] if receivers would refuse it.
    pub fn encrypt(
        &self,
        topic: TopicName<'_>,
        json: &[u8],
        iv: [u8; IV_BYTES],
    ) -> Result<Vec<u8>, SealError> {
        if !is_json(json) {
            return Err(SealError::NotJson);
        }
        Ok(cbc_encrypt(self.current.topic_key(topic).as_bytes(), &iv, json))
    }

    /// Decrypts a payload: tries the newest key first, and of those that were replaced what is still accepted.
    ///
    /// The result is *not authenticated*.
    ///
    /// # Errors
    /// [`OpenError::BadLegacy`] for every cause. There is no key identifier, and a wrong key looks like correct
    /// padding about once in 256 times, so only a JSON text counts as success.
    pub fn decrypt(
        &self,
        topic: TopicName<'_>,
        payload: &[u8],
        now_unix_ms: u64,
    ) -> Result<Vec<u8>, OpenError> {
        let next = self.next.iter();
        let replaced_at = |next: &Next| now_unix_ms >= next.activate_ms.saturating_add(next.transition_ms);
        let current = (!self.next.as_ref().is_some_and(replaced_at)).then_some(&self.current);
        let previous = self.previous.iter().filter(|(_, until_ms)| now_unix_ms < *until_ms);
        next.map(|next| &next.key)
            .chain(current)
            .chain(previous.map(|(key, _)| key))
            .filter_map(|key| cbc_decrypt(key.topic_key(topic).as_bytes(), payload))
            .find(|plaintext| is_json(plaintext))
            .ok_or(OpenError::BadLegacy)
    }
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<Value>(text).is_ok()
}

/// Puts `"seq":seq` in front of the members of a JSON object, as the article numbers its messages.
///
/// # Errors
/// [`SealError::NotJson`] if `json` is not an object, or already has a member `seq`.
///
/// ```
/// use veilmq_client::e2e::{sequence_number, with_sequence_number};
///
/// let numbered = with_sequence_number(r#"{"t":21.5}"#, 42)?;
///
/// assert_eq!(numbered, r#"{"seq":42,"t":21.5}"#);
/// assert_eq!(sequence_number(numbered.as_bytes()), Some(42));
/// # Ok::<(), veilmq_client::e2e::SealError>(())
/// ```
pub fn with_sequence_number(json: &str, seq: u64) -> Result<String, SealError> {
    let value: Value = serde_json::from_str(json).map_err(|_| SealError::NotJson)?;
    let members = value.as_object().filter(|members| !members.contains_key("seq"));
    let comma = if members.ok_or(SealError::NotJson)?.is_empty() { "" } else { "," };
    let (_, rest) = json.split_once('{').ok_or(SealError::NotJson)?;
    Ok(format!("{{\"seq\":{seq}{comma}{rest}"))
}

/// Returns the member `seq` of a JSON object, if it is a whole number.
///
/// In the article's format anyone can change it: use it to notice lost messages, never to refuse repeated ones.
pub fn sequence_number(json: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(json).ok()?.get("seq")?.as_u64()
}
