//! Keys are erased when they are dropped, and cannot be printed: the compiler is the test.

use std::fmt::Debug;

use aes_gcm::Aes256Gcm;
use chacha20poly1305::ChaCha20Poly1305;
use static_assertions::assert_not_impl_any;
use veilmq_protocol::veil::channel::{IdentityKeys, Secret32};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{
    ArticleKey, ArticleKeys, ArticleMaster, E2e, GroupKey, Keyring, MasterSecret, Member, Naming,
    ScopeConfig,
    cipher::StreamKey,
    distribution::Distribution,
    pairs::{PairKeys, Pairs},
    receiver::Receiver,
    rings::{Keys, Rings},
    sender::Sender,
    wrapping::{Row, RowKey, Unwrapped},
};
use crate::sealed_file::StateKey;

const fn erases_itself<T: ZeroizeOnDrop>() {}

const _: () = {
    erases_itself::<Secret32>();
    erases_itself::<IdentityKeys>();
    erases_itself::<GroupKey>();
    erases_itself::<MasterSecret>();
    erases_itself::<ArticleKey>();
    erases_itself::<ArticleMaster>();
    erases_itself::<StateKey>();
    // What the keys of a stream are expanded to, and their nonces.
    erases_itself::<Aes256Gcm>();
    erases_itself::<ChaCha20Poly1305>();
    erases_itself::<Zeroizing<[u8; 12]>>();
    // How keys are written down.
    erases_itself::<Zeroizing<Vec<u8>>>();
};

assert_not_impl_any!(GroupKey: Debug);
assert_not_impl_any!(MasterSecret: Debug);
assert_not_impl_any!(ArticleKey: Debug);
assert_not_impl_any!(ArticleMaster: Debug);
assert_not_impl_any!(ArticleKeys: Debug);
assert_not_impl_any!(StateKey: Debug);
assert_not_impl_any!(Keyring: Debug);
assert_not_impl_any!(Keys: Debug);
assert_not_impl_any!(Rings: Debug);
assert_not_impl_any!(Pairs: Debug);
assert_not_impl_any!(PairKeys: Debug);
assert_not_impl_any!(StreamKey: Debug);
assert_not_impl_any!(Naming: Debug);
assert_not_impl_any!(ScopeConfig: Debug);
assert_not_impl_any!(Member: Debug);
assert_not_impl_any!(Sender: Debug);
assert_not_impl_any!(Receiver: Debug);
assert_not_impl_any!(Unwrapped: Debug);
assert_not_impl_any!(Row<'static>: Debug);
assert_not_impl_any!(RowKey<'static>: Debug);
assert_not_impl_any!(Distribution: Debug);
assert_not_impl_any!(E2e: Debug);
