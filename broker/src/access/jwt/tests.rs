//! Tokens that an implementation of somebody else has made (`vectors.py 1000000000`): good ones, and every way to forge one.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

/// When the tokens were made, in unix seconds.
const NOW: u64 = 1_000_000_000;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

struct Bench {
    folder: tempfile::TempDir,
    config: JwtConfig,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let jwks_file = Some(folder.path().join("jwks.json"));
        let bench = Self {
            folder,
            config: JwtConfig {
                jwks_file,
                issuer: Some("https://issuer.example".into()),
                audience: Some("broker".into()),
                leeway_seconds: 0,
                ..JwtConfig::default()
            },
        };
        bench.write("jwks.json", &vectors()["jwks"].to_string());
        bench
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn tokens(&self) -> Tokens {
        Tokens::read(&self.config, None).unwrap().unwrap()
    }

    fn check(&self, token: &Value) -> Result<Proven, TokenFault> {
        self.tokens().check("ann", token.as_str().unwrap().as_bytes(), NOW)
    }
}

#[test]
fn tokens_of_every_algorithm_are_taken_and_end_when_they_say() {
    let bench = Bench::new();
    let tokens = &vectors()["tokens"];
    for name in ["RS256", "ES256", "EdDSA", "HS256"] {
        let proven = bench.check(&tokens["good"][name]).unwrap_or_else(|fault| panic!("{name}: {fault}"));

        assert_eq!(proven.until_seconds, NOW + 3_600, "{name}");
    }
    for name in ["good without name", "one audience", "whole moment"] {
        assert_eq!(bench.check(&tokens[name]).map(|proven| proven.until_seconds), Ok(NOW + 3_600), "{name}");
    }
}

#[test]
fn no_forged_or_unfit_token_is_taken() {
    // [B14]
    let bench = Bench::new();
    let vectors = vectors();
    let bad = vectors["tokens"]["bad"].as_object().unwrap();
    let expected = |name: &str| match name {
        "none"
        | "None"
        | "none, signed"
        | "name of another key"
        | "unknown name"
        | "RS512"
        | "public key as secret" => TokenFault::NoKey,
        "wrong key"
        | "other algorithm named"
        | "signature cut off"
        | "signature of other length"
        | "changed payload" => TokenFault::Signature,
        "expired" | "expires now" => TokenFault::Expired,
        "not yet" => TokenFault::Early,
        "other issuer" | "no issuer" => TokenFault::Issuer,
        "other audience" => TokenFault::Audience,
        "other user" => TokenFault::User,
        _ => TokenFault::Malformed,
    };

    for (name, token) in bad {
        assert_eq!(bench.check(token).err(), Some(expected(name)), "{name}");
    }
    assert!(bad.len() > 20);
    assert_eq!(bench.check(&vectors["tokens"]["no subject"]).err(), Some(TokenFault::User));
    let long = format!("{}.x.y", "x".repeat(TOKEN_BYTES_MAX));
    assert_eq!(bench.check(&long.into()).err(), Some(TokenFault::Malformed));
}

#[test]
fn what_a_token_has_to_say_is_configured() {
    let vectors = vectors();
    let mut bench = Bench::new();
    bench.config.issuer = None;
    bench.config.audience = None;
    bench.config.leeway_seconds = 30;
    for name in ["other issuer", "no issuer", "other audience", "expired"] {
        assert!(bench.check(&vectors["tokens"]["bad"][name]).is_ok(), "{name}");
    }
    bench.config.user_claim = "name".into();
    assert!(bench.check(&vectors["tokens"]["no subject"]).is_ok());
    assert_eq!(bench.check(&vectors["tokens"]["good"]["ES256"]).err(), Some(TokenFault::User));
    assert_eq!(bench.check(&vectors["tokens"]["bad"]["not yet"]).err(), Some(TokenFault::Early));
    assert_eq!(bench.check(&vectors["tokens"]["bad"]["no end"]).err(), Some(TokenFault::Malformed));
}

#[test]
fn a_key_keeps_its_number_as_long_as_it_stays() {
    let bench = Bench::new();
    let before = bench.tokens();

    let same = Tokens::read(&bench.config, Some(&before)).unwrap().unwrap();
    let mut keys = vectors()["jwks"]["keys"].as_array().unwrap().clone();
    keys.remove(0);
    bench.write("jwks.json", &json!({ "keys": keys }).to_string());
    let fewer = Tokens::read(&bench.config, Some(&before)).unwrap().unwrap();

    let numbers = |tokens: &Tokens| tokens.authorities().collect::<Vec<_>>();
    assert_eq!(numbers(&same), numbers(&before));
    assert_eq!(numbers(&fewer), numbers(&before)[1..]);
}

#[test]
fn keys_that_cannot_be_used_are_errors_that_name_them() {
    // [B09]
    for (text, expected) in [
        ("[", "it is no set of keys (line 1)"),
        (r#"{"keys": []}"#, "it has no key that signs"),
        (r#"{"keys": [{"kty": "RSA", "use": "enc"}]}"#, "it has no key that signs"),
        (r#"{"keys": [{"kty": "EC", "crv": "P-384"}]}"#, "keys[0]: only RSA, EC with P-256"),
        (r#"{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}"#, "keys[0]: its secret has less than 32 bytes"),
        (
            r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"#,
            "keys[0]: its RSA key has less than 2048 bits",
        ),
        (
            r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}]}"#,
            "keys[0]: its Ed25519 key has the wrong length",
        ),
        (
            r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"}]}"#,
            "keys[0]: `x` or `y` has the wrong length",
        ),
        (r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "?"}]}"#, "keys[0]: `x` is malformed"),
    ] {
        let bench = Bench::new();
        let path = bench.write("jwks.json", text);

        let error = Tokens::read(&bench.config, None).err().unwrap_or_else(|| panic!("{text} was taken"));

        let error = error.to_string();
        assert!(error.starts_with(&format!("{}: {expected}", path.display())), "{text}: {error}");
    }
    let bench = Bench::new();
    let mut keys = vectors()["jwks"].clone();
    keys["keys"][0]["alg"] = json!("HS256");
    bench.write("jwks.json", &keys.to_string());
    let error = Tokens::read(&bench.config, None).err().unwrap().to_string();
    assert!(error.contains("keys[0]: its algorithm is not RS256"), "{error}");
}

#[test]
fn keys_in_pem_check_tokens_of_any_name_beside_those_of_a_set() {
    let vectors = vectors();
    let mut bench = Bench::new();
    bench.config.jwks_file = None;
    let pem = |name: &str| vectors["pems"][name].as_str().unwrap().to_owned();
    let both = bench.write("both.pem", &format!("{}{}", pem("RS256"), pem("EdDSA")));
    bench.config.key_files = vec![both, bench.write("es256.pem", &pem("ES256"))];
    let good = &vectors["tokens"]["good"];
    for (name, expected) in
        [("RS256", Ok(())), ("ES256", Ok(())), ("EdDSA", Ok(())), ("HS256", Err(TokenFault::NoKey))]
    {
        assert_eq!(bench.check(&good[name]).map(drop), expected, "{name}");
    }
    assert_eq!(bench.check(&vectors["tokens"]["bad"]["wrong key"]).err(), Some(TokenFault::Signature));
    assert_eq!(bench.check(&vectors["tokens"]["bad"]["public key as secret"]).err(), Some(TokenFault::NoKey));

    for (text, what) in [
        ("", "there is no PUBLIC KEY in it"),
        (pem("P-384").as_str(), "key 1: only RSA, EC with P-256 and Ed25519 are served"),
        (
            &format!("{}-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", pem("EdDSA")),
            "key 2: it is malformed",
        ),
    ] {
        let path = bench.write("bad.pem", text);
        bench.config.key_files = vec![path.clone()];

        let error = Tokens::read(&bench.config, None).err().unwrap().to_string();

        assert_eq!(error, format!("{}: {what}", path.display()));
    }
}

#[test]
fn a_token_says_who_a_client_without_a_user_name_is() {
    let bench = Bench::new();
    let tokens = bench.tokens();
    let vectors = vectors();
    let check = |user: &str, token: &Value| {
        tokens.check(user, token.as_str().unwrap().as_bytes(), NOW).map(|proven| proven.user)
    };

    let good = &vectors["tokens"]["good"]["ES256"];
    assert_eq!([check("", good), check("ann", good)], [Ok("ann".into()), Ok("ann".into())]);
    assert_eq!(check("bob", good), Err(TokenFault::User));
    assert_eq!(check("", &vectors["tokens"]["no subject"]), Err(TokenFault::User));
    assert_eq!(["", "a\0b", "ann"].map(is_user_name), [false, false, true]);
}

#[test]
fn passwords_are_told_from_tokens_by_their_form() {
    let vectors = vectors();
    let has_form = |token: &Value| Tokens::has_form_of_token(token.as_str().unwrap().as_bytes());

    assert!(vectors["tokens"]["good"].as_object().unwrap().values().all(has_form));
    for name in ["no token", "empty", "two parts", "four parts"] {
        assert!(!has_form(&vectors["tokens"]["bad"][name]), "{name}");
    }
}
