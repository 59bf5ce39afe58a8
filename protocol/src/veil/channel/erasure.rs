//! Keys are erased when they are dropped, and cannot be printed: the compiler is the test.
//!
//! Ciphers and hashes keep keys too, and erase them only with a feature of their crates; whoever turns it off sees this fail.

use aes::Aes256;
use aes_gcm::Aes256Gcm;
use chacha20poly1305::ChaCha20Poly1305;
use core::fmt::Debug;
use ed25519_dalek::SigningKey;
use sha2::block_api::Sha256VarCore;
use static_assertions::assert_not_impl_any;
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

assert_not_impl_any!(Secret32: Debug);
assert_not_impl_any!(IdentityKeys: Debug);
assert_not_impl_any!(Identity: Debug);
assert_not_impl_any!(Aead: Debug);
assert_not_impl_any!(CbcHmac: Debug);
assert_not_impl_any!(SuiteKeys: Debug);
assert_not_impl_any!(DirectionKeys: Debug);
assert_not_impl_any!(RecordSealer: Debug);
assert_not_impl_any!(RecordOpener: Debug);
assert_not_impl_any!(GroupSealer: Debug);
assert_not_impl_any!(PropertySealer: Debug);
assert_not_impl_any!(PropertyOpener: Debug);
assert_not_impl_any!(Ephemeral: Debug);
assert_not_impl_any!(ApplicationSecrets: Debug);
assert_not_impl_any!(Established: Debug);
assert_not_impl_any!(Predecessor: Debug);
assert_not_impl_any!(Resumption: Debug);
assert_not_impl_any!(TicketContents: Debug);
assert_not_impl_any!(TicketKeys: Debug);
assert_not_impl_any!(AwaitServerHello: Debug);
assert_not_impl_any!(AwaitServerFinish: Debug);
assert_not_impl_any!(AwaitClientFinish: Debug);
assert_not_impl_any!(AwaitPacket: Debug);
assert_not_impl_any!(AwaitCompactAnswer: Debug);
assert_not_impl_any!(AwaitResumeAnswer: Debug);
assert_not_impl_any!(ServerAccepted: Debug);
