//! Finds and runs the programs that the tests need but the workspace does not build.
//!
//! A missing tool skips the test with a printed line on a developer's machine and fails it where `CI` is set, so
//! that a green run there means that everything was really run.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The root of the workspace.
#[must_use]
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests package has a parent directory")
}

/// Finds `name` in `PATH` or `/usr/sbin`; prints that the test is skipped where it is absent.
///
/// # Panics
/// If the tool is absent and the environment variable `CI` is set.
#[must_use]
pub fn require_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .or_else(|| skip(&format!("using {name}"), "install the Debian package that contains it"))
}

/// Finds a file that `tests/interop/install` makes, given relative to `tests/interop`.
///
/// # Panics
/// If the file is absent and the environment variable `CI` is set.
#[must_use]
pub fn require_installed(relative: &str) -> Option<PathBuf> {
    let path = workspace_root().join("tests/interop").join(relative);
    if path.exists() { Some(path) } else { skip(&format!("using {relative}"), "run tests/interop/install") }
}

/// Prints that a test is skipped for want of something, and returns nothing of it.
///
/// # Panics
/// If the environment variable `CI` is set.
pub fn skip<T>(missing: &str, remedy: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "{missing} is not possible here, and CI is set: {remedy}");
    eprintln!("skipped: {missing} is not possible here; {remedy}");
    None
}

/// Finds a program that this workspace builds, such as `veilmq`, in the profile that runs the tests.
///
/// # Panics
/// If it was not built, or a source of it is newer than it.
#[must_use]
pub fn built_program(name: &str) -> PathBuf {
    const REMEDY: &str = "run `cargo test --workspace`, which builds it, or `cargo build --workspace` first";
    let test = std::env::current_exe().expect("the test knows its own path");
    // target/PROFILE/deps/test-HASH
    let profile = test.parent().and_then(Path::parent).expect("tests run from target/PROFILE/deps");
    let program = profile.join(name);
    let built =
        modified(&program).unwrap_or_else(|| panic!("{} does not exist: {REMEDY}", program.display()));
    // Cargo writes a make rule beside each program, with the program's sources after the colon.
    let rule = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let sources = rule.split_once(": ").map_or("", |(_, sources)| sources).split_whitespace();
    // The revision that the program names is no source: a commit alone makes no other program.
    for source in sources.filter(|source| !source.contains("/.git/")) {
        let is_newer = modified(Path::new(source)).is_some_and(|changed| changed > built);
        assert!(!is_newer, "{} is older than {source}: {REMEDY}", program.display());
    }
    program
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// Runs `command` to its end with empty standard input and returns what it printed.
///
/// # Panics
/// If it cannot be started or does not end within `seconds_max`; it is killed then.
pub fn run(command: &mut Command, seconds_max: u64) -> Output {
    let child = spawn(command.stdin(Stdio::null()));
    finish(child, seconds_max, &format!("{command:?}"))
}

/// Starts `command` with its standard output and error piped.
///
/// # Panics
/// If it cannot be started.
pub fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// Waits for `child` (named `what` in the message) and returns what it printed.
///
/// # Panics
/// If it does not end within `seconds_max`; it is killed then.
pub fn finish(mut child: Child, seconds_max: u64, what: &str) -> Output {
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let deadline = Instant::now() + Duration::from_secs(seconds_max);
    let status = loop {
        if let Some(status) =
            child.try_wait().unwrap_or_else(|error| panic!("cannot wait for {what}: {error}"))
        {
            break Some(status);
        }
        if Instant::now() > deadline {
            // It may have ended meanwhile; either way it is gone after `wait`.
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let collect = |thread: thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    let Some(status) = status else {
        panic!(
            "{what} did not end within {seconds_max} s; it printed:\n{}\n{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        )
    };
    Output { status, stdout, stderr }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks ends the output; the exit status tells the rest.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}
