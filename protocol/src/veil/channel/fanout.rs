//! Opening one message of a fan-out: where its parts are, and the tag that binds them to this
//! subscriber (VEIL-1 section 6.3).

use super::{sealer::gbody_digest, suite_keys::SuiteKeys};
use crate::{
    DecodeError, Publish,
    veil::{fanout::join, layout::Reader, record::HEADER_LEN},
};
use alloc::vec::Vec;
use core::ops::Range;

/// The first byte of the short form of a shared body, the only one in FAN-D.
const FORM_SHORT: u8 = 0;

/// One message of a fan-out; ranges are into the buffer it was opened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanDelivery {
    pub(super) header: Range<usize>,
    pub(super) body: Range<usize>,
}

impl FanDelivery {
    /// The ordinary PUBLISH this stands for; `buffer` is the one the record was opened in.
    ///
    /// # Errors
    /// [`DecodeError`] when the broker sent what is no PUBLISH.
    pub fn publish<'a>(&self, buffer: &'a [u8]) -> Result<Publish<'a>, DecodeError> {
        let part = |range: &Range<usize>| buffer.get(range.clone()).unwrap_or_default();
        join(part(&self.header), part(&self.body))
    }
}

/// Where the per-subscriber header of a whole record is; what follows it is shared.
pub(super) fn locate_header(record: &[u8]) -> Option<Range<usize>> {
    let mut reader = Reader::new(record.get(HEADER_LEN..)?);
    let len = reader.v16("subscriber header").ok()?.len();
    let end = HEADER_LEN + reader.offset();
    Some(end - len..end)
}

/// This subscriber's own tag over a record of a fan-out.
pub(super) struct OuterTag<'a> {
    pub(super) keys: &'a SuiteKeys,
    pub(super) sequence: u64,
    pub(super) scratch: &'a mut Vec<u8>,
}

impl OuterTag<'_> {
    /// Checks `RecTag_i(hd, v16 header_i || bound)`, with `clear` being `hd || v16 header_i`.
    pub(super) fn matches(&mut self, clear: &[u8], bound: &[u8; 32], tag: &[u8]) -> bool {
        self.scratch.clear();
        self.scratch.extend_from_slice(clear);
        self.scratch.extend_from_slice(bound);
        self.keys.digest_tag_matches(self.sequence, self.scratch, tag)
    }
}

/// Opens FAN-D: the body is authenticated through its digest.
pub(super) fn open_digest(record: &[u8], mut outer: OuterTag<'_>) -> Option<FanDelivery> {
    let header = locate_header(record)?;
    let body = header.end..record.len().checked_sub(outer.keys.tag_len())?;
    let shared = record.get(body.clone())?;
    let (clear, tag) = (record.get(..header.end)?, record.get(body.end..)?);
    outer.keys.tally.digest();
    let matches = outer.matches(clear, &gbody_digest(&[shared]), tag);
    (matches && shared.first() == Some(&FORM_SHORT)).then_some(FanDelivery { header, body })
}
