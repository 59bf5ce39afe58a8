//! Opening FAN-D: one shared body, authenticated through its digest under this subscriber's own
//! key (VEIL-1 section 6.3).

use super::record::gbody_digest;
use crate::{
    DecodeError, Publish,
    veil::{fanout::join, layout::Reader, record::HEADER_LEN},
};
use alloc::vec::Vec;
use core::ops::Range;

/// One message of a fan-out; ranges are into the buffer it was opened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanDelivery {
    header: Range<usize>,
    body: Range<usize>,
}

impl FanDelivery {
    /// Finds the parts of a whole record; `None` when they do not fit.
    pub(super) fn locate(record: &[u8], tag_len: usize) -> Option<Self> {
        let body_end = record.len().checked_sub(tag_len)?;
        let mut reader = Reader::new(record.get(HEADER_LEN..body_end)?);
        let header_len = reader.v16("subscriber header").ok()?.len();
        let body_start = HEADER_LEN + reader.offset();
        Some(Self { header: body_start - header_len..body_start, body: body_start..body_end })
    }

    /// Puts what the tag covers into `out`: `hd || v16 header_i || D`.
    pub(super) fn put_authenticated(&self, record: &[u8], out: &mut Vec<u8>) {
        let (clear, rest) = record.split_at(self.header.end);
        let body = rest.get(..self.body.len()).unwrap_or_default();
        out.clear();
        out.extend_from_slice(clear);
        out.extend_from_slice(&gbody_digest(&[body]));
    }

    /// The tag of the record.
    pub(super) fn tag<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        record.get(self.body.end..).unwrap_or_default()
    }

    /// The ordinary PUBLISH this stands for; `buffer` is the one the record was opened in.
    ///
    /// # Errors
    /// [`DecodeError`] when the broker sent what is no PUBLISH.
    pub fn publish<'a>(&self, buffer: &'a [u8]) -> Result<Publish<'a>, DecodeError> {
        let part = |range: &Range<usize>| buffer.get(range.clone()).unwrap_or_default();
        join(part(&self.header), part(&self.body))
    }
}
