//! Keys are erased when they are dropped, and cannot be printed: the compiler is the test.

use std::fmt::Debug;

use aes_gcm::Aes256Gcm;
use chacha20poly1305::ChaCha20Poly1305;
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

/// Compiles only for types without `Debug`: for others it is not clear which of the two traits is meant.
macro_rules! cannot_be_printed {
    ($($type:ty),+ $(,)?) => {
        $(const _: fn() = || {
            trait Either<A> {
                fn is_meant() {}
            }
            struct Printed;
            impl<T: ?Sized> Either<()> for T {}
            impl<T: ?Sized + Debug> Either<Printed> for T {}
            <$type as Either<_>>::is_meant();
        };)+
    };
}

cannot_be_printed!(
    GroupKey,
    MasterSecret,
    ArticleKey,
    ArticleMaster,
    ArticleKeys,
    StateKey,
    Keyring,
    Keys,
    Rings,
    Pairs,
    PairKeys,
    StreamKey,
    Naming,
    ScopeConfig,
    Member,
    Sender,
    Receiver,
    Unwrapped,
    Row<'static>,
    RowKey<'static>,
    Distribution,
    E2e,
);
