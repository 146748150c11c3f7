//! The folders a program sees: input folders it can read and `/out`, which it can write. All in memory.
//!
//! Nothing of the host's file system shows through: listings are sorted, all times are zero and file
//! numbers count up in the order of creation, so that every node sees the same (edge.md 2.4).

use std::collections::BTreeMap;

use crate::errno::Errno;

/// Where a program may write.
pub(crate) const OUT: &str = "/out";
/// Entries that `/out` may have.
pub(crate) const MAX_OUT_FILES: usize = 10_000;
/// Bytes that all paths of `/out` have together, so that their list fits a message between nodes.
const MAX_OUT_PATHS: usize = 256 << 10;
/// Longest path in bytes.
const MAX_PATH: usize = 4096;

/// A file or a folder.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Number of the entry, for `fd_filestat_get`.
    pub(crate) number: u64,
    /// The bytes of a file; `None` for a folder.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// All folders by full path; no path ends in `/`.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    entries: BTreeMap<String, Entry>,
    created: u64,
    /// Entries below `/out`, and bytes of their paths.
    out: (usize, usize),
}

/// Whether the program may change what lies at this path.
pub(crate) fn is_writable(path: &str) -> bool {
    path.strip_prefix(OUT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path that `relative` means inside the granted folder `root` as seen from `base` in it. A way out of `root`
/// is refused, as is anything absolute.
pub(crate) fn resolve(root: &str, base: &str, relative: &str) -> Result<String, Errno> {
    if relative.starts_with('/') {
        return Err(Errno::NOTCAPABLE);
    }
    if relative.len() > MAX_PATH || relative.contains('\0') {
        return Err(Errno::NAMETOOLONG);
    }
    let inside = base.strip_prefix(root).unwrap_or_default();
    let mut parts: Vec<&str> = inside.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or(Errno::NOTCAPABLE)?;
            }
            name => parts.push(name),
        }
    }
    let mut path = root.to_owned();
    for part in parts {
        path.push('/');
        path.push_str(part);
    }
    if path.len() > MAX_PATH { Err(Errno::NAMETOOLONG) } else { Ok(path) }
}

impl Tree {
    /// Adds a folder and all above it.
    pub(crate) fn add_folder(&mut self, path: &str) {
        for (at, _) in path.match_indices('/').skip(1).chain([(path.len(), "")]) {
            self.insert(&path[..at], None);
        }
    }

    /// Adds a file and the folders above it.
    pub(crate) fn add_file(&mut self, path: &str, bytes: Vec<u8>) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.add_folder(folder);
        }
        self.insert(path, Some(bytes));
    }

    fn insert(&mut self, path: &str, bytes: Option<Vec<u8>>) {
        if !path.is_empty() && !self.entries.contains_key(path) {
            self.created += 1;
            if is_writable(path) && path != OUT {
                self.out = (self.out.0 + 1, self.out.1 + path.len());
            }
            self.entries.insert(path.to_owned(), Entry { number: self.created, bytes });
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<&Entry, Errno> {
        self.entries.get(path).ok_or(Errno::NOENT)
    }

    pub(crate) fn file(&self, path: &str) -> Result<&Vec<u8>, Errno> {
        self.get(path)?.bytes.as_ref().ok_or(Errno::ISDIR)
    }

    pub(crate) fn file_mut(&mut self, path: &str) -> Result<&mut Vec<u8>, Errno> {
        if !is_writable(path) {
            return Err(Errno::ROFS);
        }
        self.bytes_mut(path)
    }

    /// The bytes of a file whoever may write it, for a reader that takes them out and puts them back.
    pub(crate) fn bytes_mut(&mut self, path: &str) -> Result<&mut Vec<u8>, Errno> {
        self.entries.get_mut(path).ok_or(Errno::NOENT)?.bytes.as_mut().ok_or(Errno::ISDIR)
    }

    /// Makes a new empty file (`Some`) or folder (`None`) below a folder that exists.
    pub(crate) fn create(&mut self, path: &str, bytes: Option<Vec<u8>>) -> Result<(), Errno> {
        if !is_writable(path) {
            return Err(Errno::ROFS);
        }
        if self.entries.contains_key(path) {
            return Err(Errno::EXIST);
        }
        let (folder, _) = path.rsplit_once('/').ok_or(Errno::NOENT)?;
        if self.get(folder)?.bytes.is_some() {
            return Err(Errno::NOTDIR);
        }
        self.check_room(path.len(), 1)?;
        self.insert(path, bytes);
        Ok(())
    }

    /// Whether `/out` has room for so many more entries and bytes of path.
    const fn check_room(&self, path_bytes: usize, entries: usize) -> Result<(), Errno> {
        let (count, bytes) = self.out;
        if count + entries <= MAX_OUT_FILES && bytes + path_bytes <= MAX_OUT_PATHS {
            Ok(())
        } else {
            Err(Errno::NOSPC)
        }
    }

    /// Removes a file, or a folder that is empty, and says how many bytes that frees.
    pub(crate) fn remove(&mut self, path: &str, folder: bool) -> Result<u64, Errno> {
        let entry = self.get(path)?;
        if !is_writable(path) || path == OUT {
            return Err(Errno::ROFS);
        }
        match (&entry.bytes, folder) {
            (Some(_), true) => return Err(Errno::NOTDIR),
            (None, false) => return Err(Errno::ISDIR),
            (None, true) if self.below(path).next().is_some() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        let removed = self.entries.remove(path).and_then(|entry| entry.bytes);
        self.out = (self.out.0 - 1, self.out.1 - path.len());
        Ok(removed.map_or(0, |bytes| bytes.len() as u64))
    }

    /// Moves a file or a whole folder within `/out`; a file takes the place of another. Says how many bytes that
    /// frees.
    pub(crate) fn rename(&mut self, from: &str, to: &str) -> Result<u64, Errno> {
        let is_folder = self.get(from)?.bytes.is_none();
        if !is_writable(from) || !is_writable(to) || from == OUT || to == OUT {
            return Err(Errno::ROFS);
        }
        if from == to {
            return Ok(0);
        }
        if to.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
            return Err(Errno::INVAL);
        }
        let (folder, _) = to.rsplit_once('/').ok_or(Errno::NOENT)?;
        if self.get(folder)?.bytes.is_some() {
            return Err(Errno::NOTDIR);
        }
        // A longer name for a folder makes every path in it longer.
        let inside = self.below(from).count() + 1;
        self.check_room(to.len().saturating_sub(from.len()).saturating_mul(inside), 0)?;
        let freed = if self.entries.contains_key(to) { self.remove(to, is_folder)? } else { 0 };
        let inside: Vec<String> = self.below(from).map(|(path, _)| path.to_owned()).collect();
        for path in inside.iter().map(String::as_str).chain([from]) {
            if let Some(entry) = self.entries.remove(path) {
                self.out.1 = self.out.1 - from.len() + to.len();
                self.entries.insert(format!("{to}{}", &path[from.len()..]), entry);
            }
        }
        Ok(freed)
    }

    /// Everything below a folder, at any depth, sorted by path.
    pub(crate) fn below(&self, folder: &str) -> impl Iterator<Item = (&str, &Entry)> {
        let prefix = format!("{folder}/");
        self.entries
            .range(prefix.clone()..)
            .map(|(path, entry)| (path.as_str(), entry))
            .take_while(move |(path, _)| path.starts_with(&prefix))
    }

    /// Names directly in a folder, sorted, with their entries.
    pub(crate) fn children(&self, folder: &str) -> impl Iterator<Item = (&str, &Entry)> {
        let start = folder.len() + 1;
        self.below(folder).filter_map(move |(path, entry)| {
            let name = path.get(start..)?;
            (!name.contains('/')).then_some((name, entry))
        })
    }

    /// The files of `/out` with their paths below it, taken out.
    pub(crate) fn take_out(self) -> Vec<(String, Vec<u8>)> {
        let start = OUT.len() + 1;
        let files = self.entries.into_iter().filter(|(path, _)| is_writable(path));
        files.filter_map(|(path, entry)| Some((path.get(start..)?.to_owned(), entry.bytes?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_a_granted_folder() {
        assert_eq!(resolve("/data", "/data", "a/../b").unwrap(), "/data/b");
        assert_eq!(resolve("/data", "/data/sub", "../b/./c").unwrap(), "/data/b/c");
        for out in ["..", "a/../../x", "/data/x", "../data2/x"] {
            assert_eq!(resolve("/data", "/data", out), Err(Errno::NOTCAPABLE), "{out}");
        }
    }

    #[test]
    fn out_has_room_for_so_many_entries_and_names() {
        let mut tree = Tree::default();
        tree.add_folder(OUT);
        let long = "x".repeat(4000);
        let made = (0..100)
            .take_while(|i| tree.create(&format!("/out/{i}{long}"), Some(Vec::new())).is_ok())
            .count();
        assert_eq!(made, MAX_OUT_PATHS / 4008);
        let mut tree = Tree::default();
        tree.add_folder(OUT);
        tree.create("/out/d", None).unwrap();
        for i in 0..1000 {
            tree.create(&format!("/out/d/{i}"), Some(Vec::new())).unwrap();
        }
        assert_eq!(tree.rename("/out/d", &format!("/out/{long}")), Err(Errno::NOSPC));
        tree.rename("/out/d", "/out/longer").unwrap();
        let counted =
            tree.below(OUT).fold((0, 0), |(count, bytes), (path, _)| (count + 1, bytes + path.len()));
        assert_eq!(tree.out, counted);
        tree.remove("/out/longer/7", false).unwrap();
        assert_eq!(tree.out, (counted.0 - 1, counted.1 - "/out/longer/7".len()));
    }

    #[test]
    fn only_out_can_be_changed() {
        let mut tree = Tree::default();
        tree.add_file("/data/x", b"1".to_vec());
        tree.add_folder(OUT);
        assert_eq!(tree.create("/data/y", Some(Vec::new())), Err(Errno::ROFS));
        assert_eq!(tree.remove("/data/x", false), Err(Errno::ROFS));
        assert_eq!(tree.rename("/data/x", "/out/x"), Err(Errno::ROFS));
        assert_eq!(tree.create("/outside", None), Err(Errno::ROFS));
        tree.create("/out/d", None).unwrap();
        tree.create("/out/d/f", Some(b"22".to_vec())).unwrap();
        assert_eq!(tree.remove("/out/d", true), Err(Errno::NOTEMPTY));
        tree.rename("/out/d", "/out/e").unwrap();
        assert_eq!(tree.children("/out/e").map(|(name, _)| name).collect::<Vec<_>>(), ["f"]);
        assert_eq!(tree.take_out(), [("e/f".to_owned(), b"22".to_vec())]);
    }
}
