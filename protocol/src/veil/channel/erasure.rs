//! Keys are erased when they are dropped, and cannot be printed: the compiler is the test.
//!
//! Ciphers and hashes keep keys too, and erase them only with a feature of their crates; whoever turns it off sees this fail.

use aes::Aes256;
use aes_gcm::Aes256Gcm;
use chacha20poly1305::ChaCha20Poly1305;
use core::fmt::Debug;
use ed25519_dalek::SigningKey;
use sha2::block_api::Sha256VarCore;
use x25519_dalek::{SharedSecret, StaticSecret};
use zeroize::ZeroizeOnDrop;

use super::{
    AwaitClientFinish, AwaitCompactAnswer, AwaitPacket, AwaitResumeAnswer, AwaitServerFinish,
    AwaitServerHello, Established, GroupSealer, Identity, IdentityKeys, Predecessor, PropertyOpener,
    PropertySealer, RecordOpener, RecordSealer, Resumption, Secret32, ServerAccepted, TicketContents,
    TicketKeys, aead::Aead, cbc_hmac::CbcHmac, flight::Ephemeral, record::DirectionKeys,
    schedule::ApplicationSecrets, suite_keys::SuiteKeys,
};

const fn erases_itself<T: ZeroizeOnDrop>() {}

const _: () = {
    erases_itself::<Secret32>();
    erases_itself::<IdentityKeys>();
    // What a private key is computed with.
    erases_itself::<SigningKey>();
    erases_itself::<StaticSecret>();
    erases_itself::<SharedSecret>();
    // What ciphers have expanded a key to, and what HMAC has hashed it to.
    erases_itself::<Aes256>();
    erases_itself::<Aes256Gcm>();
    erases_itself::<ChaCha20Poly1305>();
    erases_itself::<Sha256VarCore>();
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
    Secret32,
    IdentityKeys,
    Identity,
    Aead,
    CbcHmac,
    SuiteKeys,
    DirectionKeys,
    RecordSealer,
    RecordOpener,
    GroupSealer,
    PropertySealer,
    PropertyOpener,
    Ephemeral,
    ApplicationSecrets,
    Established,
    Predecessor,
    Resumption,
    TicketContents,
    TicketKeys,
    AwaitServerHello,
    AwaitServerFinish,
    AwaitClientFinish,
    AwaitPacket,
    AwaitCompactAnswer,
    AwaitResumeAnswer,
    ServerAccepted,
);
