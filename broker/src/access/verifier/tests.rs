//! Passwords and tokens that are checked, by the threads that do it.

use std::fs;
use std::sync::mpsc;

use serde_json::Value;
use veilmq_config::JwtConfig;
use veilmq_core::EntranceId;

use super::*;
use crate::access::password::{PasswordHash, Scheme};
use crate::access::password_file::PasswordFile;

const BANS: BansConfig =
    BansConfig { failures_per_address_max: 3, failures_per_user_max: 0, window_seconds: 60, seconds: 300 };

fn credentials(user: &str, password: &[u8]) -> Box<Credentials> {
    Box::new(Credentials {
        entrance: EntranceId::default(),
        peer: "192.0.2.7:50123".into(),
        client_id: "c".into(),
        user: user.into(),
        password: password.to_vec().into(),
        certificate: None,
    })
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../jwt/vectors.json")).unwrap()
}

struct Bench {
    verifier: Verifier,
    reply: Arc<Reply>,
    verdicts: mpsc::Receiver<Verdict>,
    path: PathBuf,
    /// What the file said when the last verdict came.
    at_verdict: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(rehash: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let mut file = PasswordFile::default();
        file.set("ann", &PasswordHash::make(Scheme::Sha512, b"right").unwrap());
        file.write(&path).unwrap();
        let verifier = Verifier::start(BANS, 10).unwrap();
        let source = Some(PasswordSource { path: path.clone(), is_rehashed: rehash });
        verifier.apply(
            vec![Users::read(&path, &Users::default()).unwrap()],
            vec![source],
            Vec::new(),
            (BANS, 10),
        );
        let (told, verdicts) = mpsc::sync_channel(2 * WAITING_MAX);
        let (file, at_verdict) = (path.clone(), Arc::<Mutex<String>>::default());
        let seen = Arc::clone(&at_verdict);
        let reply: Arc<Reply> = Arc::new(move |_, _, verdict| {
            *lock(&seen) = fs::read_to_string(&file).unwrap();
            told.send(verdict).unwrap();
        });
        Self { verifier, reply, verdicts, path, at_verdict, _folder: folder }
    }

    fn has_strong(&self, entrance: usize) -> bool {
        !self.verifier.users()[entrance].is_weak("ann")
    }

    /// Waits until the hash of ann has become strong for who comes by this listener.
    fn wait_until_strong(&self, entrance: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.has_strong(entrance) {
            assert!(Instant::now() < deadline, "it stays weak");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn go_by(&self, users: Users, tokens: Option<Arc<Tokens>>) {
        self.verifier.apply(vec![users], Vec::new(), vec![Vouchers { tokens, hook: None }], (BANS, 10));
    }

    /// Whose keys the vectors name, with their issuer and audience.
    fn tokens(&self, vectors: &Value) -> Option<Arc<Tokens>> {
        let jwks_file = self.path.with_file_name("jwks.json");
        fs::write(&jwks_file, vectors["jwks"].to_string()).unwrap();
        let config = JwtConfig {
            jwks_file: Some(jwks_file),
            issuer: Some("https://issuer.example".into()),
            audience: Some("broker".into()),
            ..JwtConfig::default()
        };
        Tokens::read(&config, None).unwrap().map(Arc::new)
    }

    fn ask(&self, user: &str, password: &[u8]) -> Verdict {
        self.ask_by(0, user, password)
    }

    /// Asks as a client that came by this listener.
    fn ask_by(&self, entrance: u16, user: &str, password: &[u8]) -> Verdict {
        let credentials =
            Box::new(Credentials { entrance: EntranceId(entrance), ..*credentials(user, password) });
        self.verifier.verify(ShardIndex(0), ConnectionId(1), credentials, &self.reply);
        self.verdicts.recv_timeout(Duration::from_secs(10)).unwrap()
    }
}

#[test]
fn passwords_are_checked_and_too_many_wrong_ones_ban_the_address() {
    // [B14]
    let bench = Bench::new(false);
    assert!(matches!(bench.ask("ann", b"right"), Verdict::Right(_)));

    for (user, password) in [("ann", b"wrong"), ("bob", b"right"), ("ann", b"")] as [(&str, &[u8]); 3] {
        assert_eq!(bench.ask(user, password), Verdict::Wrong);
    }

    assert_eq!(bench.ask("ann", b"right"), Verdict::Banned);
    let mut banned = 0;
    bench.verifier.visit(&mut |sample| {
        if sample.name == "veilmq_auth_bans_total" {
            banned += sample.value;
        }
    });
    assert_eq!(banned, 1);
}

/// A bench where a password takes long.
fn slow_bench() -> Bench {
    let bench = Bench::new(false);
    let strong = PasswordHash::make(Scheme::Argon2id, b"right").unwrap();
    let mut file = PasswordFile::default();
    file.set("ann", &strong);
    file.write(&bench.path).unwrap();
    bench.go_by(Users::read(&bench.path, &Users::default()).unwrap(), None);
    bench
}

#[test]
fn more_than_can_wait_are_told_that_the_broker_is_busy() {
    // [B15]
    let bench = slow_bench();

    for _ in 0..WAITING_MAX + 100 {
        bench.verifier.verify(ShardIndex(0), ConnectionId(1), credentials("ann", b"wrong"), &bench.reply);
    }

    let busy = bench.verdicts.try_iter().filter(|verdict| *verdict == Verdict::Busy).count();
    assert!(busy > 0, "the queue holds no more than {WAITING_MAX}");
}

#[test]
fn who_sends_many_logins_delays_nobody_elsewhere() {
    // [B15]
    let bench = slow_bench();
    // Nobody is banned, which would be quick.
    lock(&bench.verifier.inner.limiter).set_config(BansConfig { failures_per_address_max: 0, ..BANS });
    for _ in 0..1_000 {
        bench.verifier.verify(ShardIndex(0), ConnectionId(1), credentials("ann", b"wrong"), &bench.reply);
    }
    let elsewhere = Credentials { peer: "[2001:db8::7]:50123".into(), ..*credentials("ann", b"right") };

    let _ = bench.verdicts.try_iter().count();
    bench.verifier.verify(ShardIndex(0), ConnectionId(2), Box::new(elsewhere), &bench.reply);

    let deadline = Instant::now() + Duration::from_secs(60);
    let before = (0..).find(|_| {
        let left = deadline.saturating_duration_since(Instant::now());
        matches!(bench.verdicts.recv_timeout(left).unwrap(), Verdict::Right(_))
    });
    // Those that the threads were at, one turn, and what they do on a busy machine before this thread goes on.
    assert!(before.unwrap() <= 100, "{before:?} were before it");
}

#[test]
fn who_has_waited_as_long_as_a_client_may_is_counted_as_one_too_many() {
    let bench = Bench::new(false);
    bench.verifier.inner.patience_seconds.store(0, Ordering::Relaxed);

    bench.verifier.verify(ShardIndex(0), ConnectionId(1), credentials("ann", b"right"), &bench.reply);

    let busy = || {
        let mut value = 0;
        bench.verifier.visit(&mut |sample| {
            if sample.name == "veilmq_auth_attempts_total" && sample.label == Some(("result", "busy")) {
                value = sample.value;
            }
        });
        value
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while busy() == 0 {
        assert!(Instant::now() < deadline, "it is not counted");
    }
    assert_eq!(bench.verdicts.try_recv(), Err(mpsc::TryRecvError::Empty), "nobody waits for it any more");
}

#[test]
fn a_weak_hash_becomes_a_strong_one_at_the_first_login_if_the_file_is_ours() {
    for is_ours in [true, false] {
        let bench = Bench::new(is_ours);
        let first = bench.ask("ann", b"right");
        let before = lock(&bench.at_verdict).clone();

        match is_ours {
            true => bench.wait_until_strong(0),
            false => bench.verifier.inner.rehash(&credentials("ann", b"right")),
        }

        let text = fs::read_to_string(&bench.path).unwrap();
        assert!(before.starts_with("ann:$6$"), "the verdict does not wait for it: {before}");
        assert_eq!(text.starts_with("ann:$argon2id$"), is_ours, "{text}");
        assert_eq!(bench.ask("ann", b"right"), first, "it is the same user as before");
    }
}

#[test]
fn no_login_waits_for_a_password_that_is_hashed_anew() {
    let bench = Bench::new(true);
    // As whoever hashes another.
    let held = lock(&bench.verifier.inner.passwords);

    let first = bench.ask("ann", b"right");

    assert!(matches!(first, Verdict::Right(_)));
    drop(held);
    assert_eq!(bench.ask("ann", b"right"), first);
    bench.wait_until_strong(0);
}

#[test]
fn no_password_is_hashed_anew_while_others_wait_to_be_let_in() {
    let bench = Bench::new(true);
    let inner = &bench.verifier.inner;
    lock(&inner.queue).has_ended = true;
    let (since, shard, connection) = (Instant::now(), ShardIndex(0), ConnectionId(1));
    let (ann, reply) = (credentials("ann", b"right"), Arc::clone(&bench.reply));
    let other = Waiting { since, shard, connection, credentials: credentials("bob", b""), reply };
    inner.pass_on(other);

    inner.rehash(&ann);
    assert!(!bench.has_strong(0));

    assert!(lock(&inner.queue).waiting.pop().is_some());
    inner.rehash(&ann);
    assert!(bench.has_strong(0));
}

#[test]
fn a_password_is_hashed_anew_in_the_file_of_the_listener_that_its_user_came_by() {
    let bench = Bench::new(false);
    let other = bench.path.with_file_name("other");
    fs::copy(&bench.path, &other).unwrap();
    let source = |path: &PathBuf, is_rehashed| Some(PasswordSource { path: path.clone(), is_rehashed });
    let users = |path: &PathBuf| Users::read(path, &Users::default()).unwrap();
    // Two go by the other file, and on one of them it is not to be written.
    let passwords = vec![source(&bench.path, false), source(&other, true), source(&other, false)];
    let known = vec![users(&bench.path), users(&other), users(&other)];
    bench.verifier.apply(known, passwords, Vec::new(), (BANS, 10));
    let is_strong = |path: &PathBuf| fs::read_to_string(path).unwrap().starts_with("ann:$argon2id$");
    let before = [0, 2].map(|entrance| bench.ask_by(entrance, "ann", b"right"));
    assert!(!is_strong(&bench.path) && !is_strong(&other));

    bench.ask_by(1, "ann", b"right");
    bench.wait_until_strong(2);

    assert!(!is_strong(&bench.path) && is_strong(&other));
    let again: Vec<Users> = {
        let known = bench.verifier.users();
        [&bench.path, &other, &other]
            .iter()
            .zip(&*known)
            .map(|(path, earlier)| Users::read(path, earlier).unwrap())
            .collect()
    };
    bench.verifier.change_users(again);
    assert_eq!(
        [0, 2].map(|entrance| bench.ask_by(entrance, "ann", b"right")),
        before,
        "they stay who they were"
    );
}

#[test]
fn a_token_proves_a_user_that_no_file_knows_and_no_other() {
    let bench = Bench::new(false);
    let vectors = vectors();
    let tokens = bench.tokens(&vectors);
    let token = vectors["tokens"]["lasting"]["ES256"].as_str().unwrap().as_bytes();

    bench.go_by(Users::read(&bench.path, &Users::default()).unwrap(), tokens.clone());
    assert_eq!([bench.ask("ann", token), bench.ask("", token)], [Verdict::Wrong, Verdict::Wrong]);
    assert!(matches!(bench.ask("ann", b"right"), Verdict::Right(_)));
    bench.go_by(Users::default(), tokens);
    assert!(matches!(bench.ask("ann", token), Verdict::Vouched { .. }));
    assert!(matches!(bench.ask("", token), Verdict::Vouched { user, .. } if *user == *"ann"));
    let ann = Banned::User("ann".into());
    bench.verifier.ban(&ann, Duration::from_secs(60));
    assert_eq!(bench.ask("", token), Verdict::Banned, "a ban holds for who it turns out to be");
    bench.verifier.lift(&ann);
    bench.go_by(Users::default(), None);
    assert_eq!(bench.ask("ann", token), Verdict::Wrong);
}

#[test]
fn who_shows_its_own_token_after_its_time_is_refused_and_not_banned() {
    // [B14]
    let bench = Bench::new(false);
    let vectors = vectors();
    let tokens = bench.tokens(&vectors);
    let bad = |name: &str| vectors["tokens"]["bad"][name].as_str().unwrap().as_bytes();
    bench.go_by(Users::default(), tokens.clone());

    for user in ["ann", ""].repeat(BANS.failures_per_address_max as usize) {
        assert_eq!(bench.ask(user, bad("expired")), Verdict::Wrong);
    }

    let lasting = vectors["tokens"]["lasting"]["ES256"].as_str().unwrap().as_bytes();
    assert!(matches!(bench.ask("ann", lasting), Verdict::Vouched { .. }), "its next one is good");
    // The password file says who ann is, and a token is none of her passwords.
    bench.go_by(Users::read(&bench.path, &Users::default()).unwrap(), tokens);
    for _ in 0..BANS.failures_per_address_max {
        assert_eq!(bench.ask("ann", bad("expired")), Verdict::Wrong);
    }
    assert_eq!(bench.ask("ann", b"right"), Verdict::Banned);
}

#[test]
fn an_expired_token_of_others_counts_as_a_wrong_password() {
    // [B14]
    let vectors = vectors();
    let bad = |name: &str| vectors["tokens"]["bad"][name].as_str().unwrap().as_bytes();
    for (user, name) in [("bob", "expired"), ("ann", "other issuer"), ("ann", "other audience")] {
        let bench = Bench::new(false);
        bench.go_by(Users::default(), bench.tokens(&vectors));

        for _ in 0..BANS.failures_per_address_max {
            assert_eq!(bench.ask(user, bad(name)), Verdict::Wrong);
        }

        assert_eq!(bench.ask(user, bad(name)), Verdict::Banned, "{user}: {name}");
    }
}
