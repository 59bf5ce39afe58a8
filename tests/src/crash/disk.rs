//! A disk that remembers what it was made to keep: what a directory may hold after the power was cut.
//!
//! Contents become durable by the sync of their file, names by the sync of their directory. Of the rest a cut keeps what the
//! dice say: 4 KiB pages of files each for itself, changes of names in their order, as file systems with a journal do.
//! Invariant: whatever the dice say, what was synced is there.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::{fs, io};

use super::dice::Dice;
use super::pages::{File, Snapshot};
use super::trace::Call;

/// The directory that is the root of the recording; it was there before.
const ROOT: usize = 0;

/// A directory and a name in it.
type Name = (usize, String);

/// Whether the disk does what a sync asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// It does.
    Kept,
    /// It does for directories and forgets about files, as it would for a broker that syncs none.
    OfNamesAlone,
}

enum Node {
    Directory,
    File(File),
}

/// Names that change together.
struct Renaming {
    directory: usize,
    changes: Vec<(Name, Option<usize>)>,
    position: usize,
}

/// What a sync will make durable when it ends.
enum Sync {
    File { node: usize, snapshot: Snapshot },
    Directory { node: usize, position: usize },
}

#[derive(Clone, Copy)]
struct Description {
    node: usize,
    position: u64,
    appends: bool,
}

/// The simulated disk.
pub struct Disk {
    syncs_are: Syncs,
    nodes: Vec<Node>,
    names: BTreeMap<Name, usize>,
    durable_names: BTreeMap<Name, usize>,
    /// Changes of names that are not durable yet.
    pending: Vec<Renaming>,
    renamings: usize,
    syncs: HashMap<usize, Sync>,
    descriptors: HashMap<i32, usize>,
    descriptions: Vec<Description>,
}

impl Disk {
    /// A disk with an empty root.
    #[must_use]
    pub fn new(syncs_are: Syncs) -> Self {
        Self {
            syncs_are,
            nodes: vec![Node::Directory],
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            renamings: 0,
            syncs: HashMap::new(),
            descriptors: HashMap::new(),
            descriptions: Vec::new(),
        }
    }

    /// Puts the contents of a directory into the root, as durable as if they had always been there.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn import(&mut self, directory: &Path) -> io::Result<()> {
        self.import_into("", directory)?;
        self.pending.clear();
        self.durable_names = self.names.clone();
        Ok(())
    }

    fn import_into(&mut self, folder: &str, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.create(&path, Node::Directory);
                self.import_into(&path, &entry.path())?;
            } else {
                let file = File::durable(&fs::read(entry.path())?);
                self.create(&path, Node::File(file));
            }
        }
        Ok(())
    }

    /// Does what the broker did.
    ///
    /// # Panics
    /// If the recording speaks of a file that it has not made.
    pub fn apply(&mut self, call: &Call) {
        match call {
            Call::Open { fd, path, creates, truncates, appends } => {
                let node = self.find(path).unwrap_or_else(|| {
                    assert!(*creates, "{path} does not exist");
                    self.create(path, Node::File(File::default()))
                });
                if *truncates {
                    self.file(node).set_length(0);
                }
                self.descriptions.push(Description { node, position: 0, appends: *appends });
                self.descriptors.insert(*fd, self.descriptions.len() - 1);
            }
            Call::Close { fd } => {
                self.descriptors.remove(fd);
            }
            Call::Duplicate { fd, copy } => match self.descriptors.get(fd).copied() {
                Some(description) => {
                    self.descriptors.insert(*copy, description);
                }
                None => {
                    self.descriptors.remove(copy);
                }
            },
            Call::Write { fd, offset, bytes } => self.write(*fd, *offset, bytes),
            Call::Advance { fd, count } => {
                if let Some(description) = self.description(*fd) {
                    description.position += count;
                }
            }
            Call::Seek { fd, position } => {
                if let Some(description) = self.description(*fd) {
                    description.position = *position;
                }
            }
            Call::SetLength { fd, length } => {
                if let Some(node) = self.description(*fd).map(|description| description.node) {
                    self.file(node).set_length(*length);
                }
            }
            Call::SyncBegins { number, fd } => self.begin_sync(*number, *fd),
            Call::SyncEnds { number } => self.end_sync(*number),
            Call::Rename { from, to } => {
                let node = self.find(from).unwrap_or_else(|| panic!("{from} is renamed and does not exist"));
                let (from, to) = (self.name(from), self.name(to));
                self.rename(to.0, vec![(from, None), (to, Some(node))]);
            }
            Call::Remove { path } => {
                let name = self.name(path);
                self.rename(name.0, vec![(name, None)]);
            }
            Call::MakeDirectory { path } => {
                self.create(path, Node::Directory);
            }
            Call::Send { .. } => {}
        }
    }

    fn name(&self, path: &str) -> Name {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = self.find(folder).unwrap_or_else(|| panic!("{folder} does not exist"));
        (directory, name.to_owned())
    }

    fn find(&self, path: &str) -> Option<usize> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(ROOT, |directory, name| self.names.get(&(directory, name.to_owned())).copied())
    }

    fn create(&mut self, path: &str, node: Node) -> usize {
        let name = self.name(path);
        self.nodes.push(node);
        let node = self.nodes.len() - 1;
        self.rename(name.0, vec![(name, Some(node))]);
        node
    }

    fn rename(&mut self, directory: usize, changes: Vec<(Name, Option<usize>)>) {
        change(&mut self.names, &changes);
        self.renamings += 1;
        self.pending.push(Renaming { directory, changes, position: self.renamings });
    }

    fn file(&mut self, node: usize) -> &mut File {
        match &mut self.nodes[node] {
            Node::File(file) => file,
            Node::Directory => panic!("a directory is written to"),
        }
    }

    /// None for what was open before the recording began: the standard streams.
    fn description(&mut self, fd: i32) -> Option<&mut Description> {
        self.descriptors.get(&fd).map(|description| &mut self.descriptions[*description])
    }

    fn write(&mut self, fd: i32, offset: Option<u64>, bytes: &[u8]) {
        let Some(Description { node, position, appends }) = self.description(fd).copied() else { return };
        let start = match offset {
            _ if appends => self.file(node).length(),
            Some(offset) => offset,
            None => position,
        };
        self.file(node).write(start, bytes);
        if let (None, Some(description)) = (offset, self.description(fd)) {
            description.position = start + bytes.len() as u64;
        }
    }

    fn begin_sync(&mut self, number: usize, fd: i32) {
        let Some(node) = self.description(fd).map(|description| description.node) else { return };
        let sync = match &self.nodes[node] {
            Node::Directory => Sync::Directory { node, position: self.renamings },
            Node::File(file) => Sync::File { node, snapshot: file.snapshot() },
        };
        self.syncs.insert(number, sync);
    }

    fn end_sync(&mut self, number: usize) {
        match self.syncs.remove(&number) {
            None => {}
            Some(Sync::Directory { node, position }) => {
                let is_synced =
                    |renaming: &Renaming| renaming.directory == node && renaming.position <= position;
                for renaming in self.pending.iter().filter(|renaming| is_synced(renaming)) {
                    change(&mut self.durable_names, &renaming.changes);
                }
                self.pending.retain(|renaming| !is_synced(renaming));
            }
            Some(Sync::File { node, snapshot }) if self.syncs_are == Syncs::Kept => {
                self.file(node).end_sync(number, snapshot);
            }
            Some(Sync::File { .. }) => {}
        }
    }

    /// Writes into `directory` what a disk may hold if the power is cut now: all that was synced, and about `percent` of the rest.
    ///
    /// # Errors
    /// If `directory` cannot be written.
    pub fn cut(&self, directory: &Path, percent: u64, dice: &mut Dice) -> io::Result<()> {
        let mut names = self.durable_names.clone();
        for renaming in self.pending.iter().take_while(|_| dice.chance(percent)) {
            change(&mut names, &renaming.changes);
        }
        self.write_directory(ROOT, directory, &names, percent, dice)
    }

    fn write_directory(
        &self,
        node: usize,
        directory: &Path,
        names: &BTreeMap<Name, usize>,
        percent: u64,
        dice: &mut Dice,
    ) -> io::Result<()> {
        for ((_, name), child) in names.range((node, String::new())..(node + 1, String::new())) {
            let path = directory.join(name);
            match &self.nodes[*child] {
                Node::Directory => {
                    fs::create_dir(&path)?;
                    self.write_directory(*child, &path, names, percent, dice)?;
                }
                Node::File(file) => fs::write(path, file.cut(percent, dice))?,
            }
        }
        Ok(())
    }
}

fn change(names: &mut BTreeMap<Name, usize>, changes: &[(Name, Option<usize>)]) {
    for (name, node) in changes {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of the file `f` after these calls, if anything.
    fn left_of(calls: &[Call], percent: u64) -> Option<Vec<u8>> {
        let mut disk = Disk::new(Syncs::Kept);
        disk.apply(&Call::Open {
            fd: 1,
            path: "f".to_owned(),
            creates: true,
            truncates: false,
            appends: false,
        });
        for call in calls {
            disk.apply(call);
        }
        let directory = tempfile::tempdir().unwrap();
        disk.cut(directory.path(), percent, &mut Dice::new(1)).unwrap();
        fs::read(directory.path().join("f")).ok()
    }

    fn write(bytes: &[u8]) -> Call {
        Call::Write { fd: 1, offset: Some(0), bytes: bytes.to_vec() }
    }

    fn sync(number: usize, fd: i32) -> [Call; 2] {
        [Call::SyncBegins { number, fd }, Call::SyncEnds { number }]
    }

    fn directory_sync() -> Vec<Call> {
        let open =
            Call::Open { fd: 2, path: String::new(), creates: false, truncates: false, appends: false };
        [vec![open], sync(9, 2).to_vec()].concat()
    }

    #[test]
    fn a_name_is_kept_by_the_sync_of_its_directory_and_contents_by_that_of_the_file() {
        let [begins, ends] = sync(0, 1);

        assert_eq!(left_of(&[write(b"ab"), begins.clone(), ends.clone()], 0), None);
        assert_eq!(left_of(&[vec![write(b"ab")], directory_sync()].concat(), 0), Some(Vec::new()));
        let both = [vec![write(b"ab"), begins, ends], directory_sync()].concat();
        assert_eq!(left_of(&both, 0), Some(b"ab".to_vec()));
        assert_eq!(left_of(&[write(b"ab")], 100), Some(b"ab".to_vec()));
    }

    #[test]
    fn a_sync_keeps_what_was_written_before_it_began() {
        let [begins, ends] = sync(0, 1);

        let calls = [directory_sync(), vec![write(b"old"), begins, write(b"new"), ends]].concat();

        assert_eq!(left_of(&calls, 0), Some(b"old".to_vec()));
        assert_eq!(left_of(&calls, 100), Some(b"new".to_vec()));
    }

    #[test]
    fn a_file_that_was_cut_is_cut_for_good_by_a_sync() {
        let [begins, ends] = sync(0, 1);
        let [begins_again, ends_again] = sync(1, 1);
        let cut = Call::SetLength { fd: 1, length: 1 };

        let once = [directory_sync(), vec![write(&[7; 5000]), begins, ends, cut]].concat();
        let twice = [once.clone(), vec![begins_again, ends_again]].concat();

        assert_eq!(left_of(&once, 0), Some(vec![7; 5000]));
        assert_eq!(left_of(&once, 100), Some(vec![7]));
        assert_eq!(left_of(&twice, 0), Some(vec![7]));
    }

    #[test]
    fn a_disk_that_syncs_names_alone_keeps_nothing_of_a_file_for_certain() {
        let mut disk = Disk::new(Syncs::OfNamesAlone);
        let open =
            Call::Open { fd: 1, path: "f".to_owned(), creates: true, truncates: false, appends: false };
        let calls = [vec![open, write(b"ab")], sync(0, 1).to_vec(), directory_sync()].concat();
        calls.iter().for_each(|call| disk.apply(call));
        let directory = tempfile::tempdir().unwrap();

        disk.cut(directory.path(), 0, &mut Dice::new(1)).unwrap();

        assert_eq!(fs::read(directory.path().join("f")).unwrap(), b"");
    }

    #[test]
    fn what_was_there_before_is_durable() {
        let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(before.path().join("folder/empty")).unwrap();
        fs::write(before.path().join("folder/file"), [3; 5000]).unwrap();

        let mut disk = Disk::new(Syncs::Kept);
        disk.import(before.path()).unwrap();
        disk.cut(after.path(), 0, &mut Dice::new(1)).unwrap();

        assert_eq!(fs::read(after.path().join("folder/file")).unwrap(), [3; 5000]);
        assert!(after.path().join("folder/empty").is_dir());
    }
}
