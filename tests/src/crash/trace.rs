//! A recording of the system calls of a broker, as `strace` writes it, read as calls that a simulated disk can repeat.
//!
//! `strace` stops each thread at the entry and the exit of a call and writes both in the order in which it sees them. Whoever
//! waited for a call to end comes after its exit, so what lies before an answer to a client really happened before it. Calls
//! that cannot be repeated are refused, not skipped. Invariant: a write has happened at its exit, a sync covers what had
//! happened at its entry, and bytes for a socket count as seen from the entry of their call on.

use std::collections::HashMap;
use std::path::Path;

/// The calls that can change a directory or tell a client something, and those that say what a descriptor stands for.
const TRACED: &str = "openat,open,creat,close,dup,dup2,dup3,fcntl,read,write,pwrite64,pwritev,pwritev2,writev,lseek,\
    ftruncate,truncate,fallocate,fsync,fdatasync,sync_file_range,msync,mmap,rename,renameat,renameat2,unlink,unlinkat,\
    mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,sendfile,copy_file_range,splice,io_uring_setup,accept4,sendto,sendmsg";

/// The command that a broker is run under so that its calls are recorded in `file`.
#[must_use]
pub fn recorder(strace: &Path, file: &Path) -> Vec<String> {
    let mut command = vec![strace.display().to_string()];
    // -D: the recorder is a process of its own, so that the process that was started is the broker.
    command.extend(["-D", "-f", "-y", "-xx", "-s", "100000000", "--seccomp-bpf", "-o"].map(str::to_owned));
    command.extend([file.display().to_string(), "-e".to_owned(), format!("trace={TRACED}"), "--".to_owned()]);
    command
}

/// One thing that happened, in order. Paths are relative to the root of the recording.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as the arguments of the system calls are")]
pub enum Call {
    /// A file or directory below the root was opened.
    Open { fd: i32, path: String, creates: bool, truncates: bool, appends: bool },
    /// The descriptor means nothing below the root any more.
    Close { fd: i32 },
    /// Two descriptors share one position.
    Duplicate { fd: i32, copy: i32 },
    /// Bytes were written at an offset or at the position of the descriptor.
    Write { fd: i32, offset: Option<u64>, bytes: Vec<u8> },
    /// The position moved on.
    Advance { fd: i32, count: u64 },
    /// The position was set.
    Seek { fd: i32, position: u64 },
    /// The file was cut or made longer.
    SetLength { fd: i32, length: u64 },
    /// A sync began.
    SyncBegins { number: usize, fd: i32 },
    /// It ended well.
    SyncEnds { number: usize },
    /// A name was changed; the file that had the new one before has none any more.
    Rename { from: String, to: String },
    /// A name was removed.
    Remove { path: String },
    /// A directory was made.
    MakeDirectory { path: String },
    /// Bytes were on their way to a client; connections are counted in the order in which they were accepted.
    Send { connection: usize, count: u64 },
}

/// What the broker did, and the clients' port of each connection that it accepted.
#[derive(Debug, Default)]
pub struct Recording {
    /// The calls in order.
    pub calls: Vec<Call>,
    /// The port of the other end of each connection.
    pub ports: Vec<u16>,
}

impl Recording {
    /// Reads what `strace` wrote of a broker whose files of interest are below `root`.
    ///
    /// # Errors
    /// The line that cannot be understood, or that changes files in a way that cannot be repeated.
    pub fn read(trace: &str, root: &Path) -> Result<Self, String> {
        let mut reader = Reader {
            root: root.display().to_string(),
            recording: Self::default(),
            unfinished: HashMap::new(),
            sockets: HashMap::new(),
            syncs: 0,
        };
        for line in trace.lines() {
            reader.line(line).ok_or_else(|| {
                format!("cannot be repeated: {}", line.chars().take(300).collect::<String>())
            })?;
        }
        Ok(reader.recording)
    }
}

/// What is known of a call at its entry.
struct Entry<'a> {
    arguments: &'a str,
    /// Where its answer to a client stands in the recording.
    sends: Option<usize>,
    /// The number of its sync.
    sync: Option<usize>,
}

struct Reader<'a> {
    root: String,
    recording: Recording,
    /// Calls that have begun, by thread.
    unfinished: HashMap<&'a str, Entry<'a>>,
    /// The connection of each descriptor.
    sockets: HashMap<i32, usize>,
    syncs: usize,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: &'a str) -> Option<()> {
        let (thread, rest) = line.split_once(' ')?;
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            return Some(());
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (name, rest) = resumed.split_once(" resumed>")?;
            let entry = self.unfinished.remove(thread)?;
            let arguments = format!("{}{rest}", entry.arguments);
            return self.exit(name, &arguments, &entry);
        }
        let (name, arguments) = rest.split_once('(')?;
        let is_unfinished = arguments.strip_suffix(" <unfinished ...>");
        let entry = self.entry(name, is_unfinished.unwrap_or(arguments))?;
        if is_unfinished.is_some() {
            self.unfinished.insert(thread, entry);
            return Some(());
        }
        self.exit(name, arguments, &entry)
    }

    fn entry(&mut self, name: &str, arguments: &'a str) -> Option<Entry<'a>> {
        let mut entry = Entry { arguments, sends: None, sync: None };
        match name {
            "close" => {
                let fd = number(arguments)?;
                self.sockets.remove(&fd);
                self.recording.calls.push(Call::Close { fd });
            }
            "write" | "writev" | "sendto" | "sendmsg" => {
                if let Some(connection) = self.sockets.get(&number(arguments)?) {
                    entry.sends = Some(self.recording.calls.len());
                    self.recording.calls.push(Call::Send { connection: *connection, count: 0 });
                }
            }
            "fsync" | "fdatasync" if self.is_ours(arguments) => {
                entry.sync = Some(self.syncs);
                self.recording.calls.push(Call::SyncBegins { number: self.syncs, fd: number(arguments)? });
                self.syncs += 1;
            }
            _ => {}
        }
        Some(entry)
    }

    fn exit(&mut self, name: &str, whole: &str, entry: &Entry<'_>) -> Option<()> {
        let (arguments, result) = whole.rsplit_once(" = ")?;
        let arguments = arguments.trim_end().strip_suffix(')')?;
        if result.starts_with(['-', '?']) {
            return Some(());
        }
        if let Some(position) = entry.sends {
            if let Call::Send { count, .. } = &mut self.recording.calls[position] {
                *count = number(result)?;
            }
            return Some(());
        }
        if let Some(number) = entry.sync {
            self.recording.calls.push(Call::SyncEnds { number });
            return Some(());
        }
        match name {
            "openat" | "open" | "creat" => self.opened(name, arguments, number(result)?)?,
            "accept4" => self.accepted(arguments, number(result)?),
            "dup" | "dup2" | "dup3" => self.duplicated(number(arguments)?, number(result)?),
            "fcntl" if arguments.contains("F_DUPFD") => self.duplicated(number(arguments)?, number(result)?),
            "rename" | "renameat" | "renameat2" => self.renamed(arguments)?,
            "unlink" | "unlinkat" | "rmdir" | "mkdir" | "mkdirat" => {
                if let Some(path) = self.path(*texts(arguments).first()?) {
                    let is_made = name.starts_with("mkdir");
                    let call = if is_made { Call::MakeDirectory { path } } else { Call::Remove { path } };
                    self.recording.calls.push(call);
                }
            }
            "fcntl" | "close" | "sync_file_range" | "io_uring_setup" | "sendto" | "sendmsg" => {
                return (name != "io_uring_setup").then_some(());
            }
            "link" | "linkat" | "symlink" | "symlinkat" | "truncate" => {
                let is_ours = texts(arguments).iter().any(|text| self.path(*text).is_some());
                return (!is_ours).then_some(());
            }
            _ if self.is_ours(arguments) => self.changed(name, arguments, result)?,
            // What happens to other files does not matter.
            _ => {}
        }
        Some(())
    }

    fn opened(&mut self, name: &str, arguments: &str, fd: i32) -> Option<()> {
        let flag = |flag: &str| arguments.contains(flag);
        let call = match self.path(*texts(arguments).first()?) {
            None => Call::Close { fd },
            Some(path) => Call::Open {
                fd,
                path,
                creates: name == "creat" || flag("O_CREAT"),
                truncates: name == "creat" || flag("O_TRUNC"),
                appends: flag("O_APPEND"),
            },
        };
        self.recording.calls.push(call);
        Some(())
    }

    fn accepted(&mut self, arguments: &str, fd: i32) {
        let port = arguments.split_once("htons(").and_then(|(_, rest)| number(rest));
        if let Some(port) = port {
            self.sockets.insert(fd, self.recording.ports.len());
            self.recording.ports.push(port);
        }
    }

    fn duplicated(&mut self, fd: i32, copy: i32) {
        if let Some(connection) = self.sockets.get(&fd) {
            self.sockets.insert(copy, *connection);
        }
        self.recording.calls.push(Call::Duplicate { fd, copy });
    }

    fn renamed(&mut self, arguments: &str) -> Option<()> {
        let [from, to] = texts(arguments)[..] else { return None };
        match (self.path(from), self.path(to)) {
            (None, None) => Some(()),
            (Some(from), Some(to)) => {
                self.recording.calls.push(Call::Rename { from, to });
                Some(())
            }
            _ => None,
        }
    }

    /// A call with a descriptor of ours.
    fn changed(&mut self, name: &str, arguments: &str, result: &str) -> Option<()> {
        let fd = number(arguments)?;
        let last = |back: usize| arguments.rsplit(", ").nth(back).and_then(number::<u64>);
        let call = match name {
            "read" => Call::Advance { fd, count: number(result)? },
            "lseek" => Call::Seek { fd, position: number(result)? },
            "write" | "writev" => Call::Write { fd, offset: None, bytes: written(arguments, result)? },
            "pwrite64" | "pwritev" => {
                Call::Write { fd, offset: Some(last(0)?), bytes: written(arguments, result)? }
            }
            "ftruncate" => Call::SetLength { fd, length: last(0)? },
            // A mapping that is private or cannot be written to changes no file.
            "mmap" => {
                let changes = arguments.contains("MAP_SHARED") && arguments.contains("PROT_WRITE");
                return (!changes).then_some(());
            }
            _ => return None,
        };
        self.recording.calls.push(call);
        Some(())
    }

    /// Whether the descriptor that the arguments begin with, or that a mapping names, is of a file below the root.
    fn is_ours(&self, arguments: &str) -> bool {
        arguments.split('<').skip(1).filter_map(|rest| rest.split_once('>')).any(|(name, _)| {
            let name = String::from_utf8(unescape(name));
            name.is_ok_and(|name| self.below_root(&name).is_some())
        })
    }

    /// The path from the root; none for a file elsewhere. The text is what stood before the path's quote, and the path.
    fn path(&self, (before, text): (&str, &str)) -> Option<String> {
        let mut path = String::from_utf8(unescape(text)).ok()?;
        if !path.starts_with('/') {
            let folder = before.rsplit_once('<')?.1.split_once('>')?.0;
            path = format!("{}/{path}", String::from_utf8(unescape(folder)).ok()?);
        }
        self.below_root(&path).map(str::to_owned)
    }

    fn below_root<'b>(&self, path: &'b str) -> Option<&'b str> {
        let below = path.strip_prefix(&self.root)?.trim_end_matches('/');
        if below.is_empty() { Some(below) } else { below.strip_prefix('/') }
    }
}

/// The number that a text begins with.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Every text in quotes, with what stands between it and the one before.
fn texts(arguments: &str) -> Vec<(&str, &str)> {
    let pieces: Vec<&str> = arguments.split('"').collect();
    pieces.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// The bytes that a call has written: as many as its result says.
fn written(arguments: &str, result: &str) -> Option<Vec<u8>> {
    let mut bytes: Vec<u8> = texts(arguments).into_iter().flat_map(|(_, text)| unescape(text)).collect();
    let count = number(result)?;
    (bytes.len() >= count).then(|| {
        bytes.truncate(count);
        bytes
    })
}

/// Reads `\x41\x42`; what is not written so stands for itself.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        if let [b'\\', b'x', high, low, tail @ ..] = rest
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            bytes.push(high << 4 | low);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(trace: &str) -> Result<Recording, String> {
        Recording::read(trace, Path::new("/r"))
    }

    #[test]
    fn calls_that_overlap_are_put_together_by_thread() {
        let trace = r#"1 openat(AT_FDCWD</>, "\x2f\x72\x2f\x61", O_WRONLY|O_CREAT, 0666) = 7</r/a>
1 pwrite64(7</r/a>, "\x41\x42", 2, 4096 <unfinished ...>
2 fsync(7</r/a> <unfinished ...>
1 <... pwrite64 resumed>) = 2
2 <... fsync resumed>)                    = 0
2 openat(AT_FDCWD</>, "\x2f\x65\x74\x63", O_RDONLY) = 8</etc>
1 +++ killed by SIGKILL +++"#;

        let calls = read(trace).unwrap().calls;

        let open =
            Call::Open { fd: 7, path: "a".to_owned(), creates: true, truncates: false, appends: false };
        let write = Call::Write { fd: 7, offset: Some(4096), bytes: b"AB".to_vec() };
        let sync = [Call::SyncBegins { number: 0, fd: 7 }, Call::SyncEnds { number: 0 }];
        assert_eq!(calls, [open, sync[0].clone(), write, sync[1].clone(), Call::Close { fd: 8 }]);
    }

    #[test]
    fn bytes_for_a_client_count_from_the_entry_of_their_call() {
        let trace = r#"1 accept4(3<socket:[1]>, {sa_family=AF_INET, sin_port=htons(5000), sin_addr="\x31"}, [128 => 16], 0) = 9<socket:[2]>
1 writev(9<socket:[2]>, [{iov_base="\x20\x02", iov_len=2}], 1 <unfinished ...>
2 close(5</r/a>) = 0
1 <... writev resumed>) = 2
1 sendto(9<socket:[2]>, "\x00", 1, MSG_NOSIGNAL, NULL, 0) = -1 EPIPE (Broken pipe)"#;

        let recording = read(trace).unwrap();

        assert_eq!(recording.ports, [5000]);
        let sent = |count| Call::Send { connection: 0, count };
        assert_eq!(recording.calls, [sent(2), Call::Close { fd: 5 }, sent(0)]);
    }

    #[test]
    fn what_cannot_be_repeated_is_refused() {
        for trace in [
            r#"1 link("\x2f\x65", "\x2f\x72\x2f\x61") = 0"#,
            r#"1 copy_file_range(7</r/a>, NULL, 8</r/b>, NULL, 5, 0) = 5"#,
            r#"1 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 7</r/a>, 0) = 0x7f0000000000"#,
            r#"1 io_uring_setup(8, {flags=0}) = 5"#,
            r#"1 pwrite64(7</r/a>, "\x41"..., 2, 0) = 2"#,
        ] {
            assert!(read(trace).is_err(), "{trace}");
        }
    }
}
