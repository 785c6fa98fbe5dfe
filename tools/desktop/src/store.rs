//! Files of the user: conversations and settings as JSON, each written whole or not at all.
//!
//! Decides where files lie and how they are written; must not know what a window shows. A file
//! that cannot be read is set aside beside its place, never overwritten, and told of.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread::{Builder, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::conversation::Conversation;

/// Ending of a file that is being written.
const PART: &str = "part";
/// Ending of a file that could not be read.
const ASIDE: &str = "unreadable";

/// Writes `bytes` to `path`: to a file beside it that is synced and then renamed, so that a
/// lost machine leaves the old content or the new.
///
/// # Errors
/// Those of the file system; `path` is as it was then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let part = path.with_extension(PART);
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&part, path)?;
    // The name itself is durable once the folder is; not every system lets one open it.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Reads `path`; `None` where there is none.
///
/// # Errors
/// What is wrong with it, and where it was set aside.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let aside = path.with_extension(format!("{ASIDE}-{}", now_seconds()));
        let kept = match fs::rename(path, &aside) {
            Ok(()) => format!("it is kept as {}", aside.display()),
            Err(error) => format!("and it could not be set aside: {error}"),
        };
        format!("{} is damaged ({error}); {kept}", path.display())
    })
}

/// Seconds since 1970.
fn now_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Found {
    /// Conversations, the newest first.
    pub conversations: Vec<Conversation>,
    /// What could not be read, a sentence each.
    pub complaints: Vec<String>,
}

/// A folder of files, and the thread `hadal-save` that writes them in the order they were given.
pub struct Store {
    folder: PathBuf,
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

enum Work {
    Write(PathBuf, Vec<u8>),
    Remove(PathBuf),
}

impl Store {
    /// Files in `folder`, which is made when it is needed. `complain` is called on the writing
    /// thread with what did not work.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub fn open(folder: PathBuf, complain: impl Fn(String) + Send + 'static) -> io::Result<Store> {
        let (work, todo) = mpsc::channel::<Work>();
        let thread = Builder::new()
            .name("hadal-save".to_string())
            .spawn(move || {
                for work in todo {
                    let (path, done) = match &work {
                        Work::Write(path, bytes) => (path, write_atomically(path, bytes)),
                        Work::Remove(path) => (path, fs::remove_file(path)),
                    };
                    if let Err(error) = done {
                        complain(format!("{} cannot be saved: {error}", path.display()));
                    }
                }
            })?;
        Ok(Store {
            folder,
            work: Some(work),
            thread: Some(thread),
        })
    }

    fn conversations(&self) -> PathBuf {
        self.folder.join("conversations")
    }

    fn path_of(&self, id: &str) -> PathBuf {
        self.conversations().join(format!("{id}.json"))
    }

    /// Where settings lie.
    pub fn settings(&self) -> PathBuf {
        self.folder.join("settings.json")
    }

    /// All conversations. Files half written by a lost machine are no conversations.
    pub fn find(&self) -> Found {
        let mut found = Found::default();
        // No folder yet: nothing was saved.
        let Ok(entries) = fs::read_dir(self.conversations()) else {
            return found;
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        for path in paths.filter(|path| path.extension().is_some_and(|end| end == "json")) {
            match read::<Conversation>(&path) {
                Ok(Some(mut conversation)) => {
                    // A copied file is another conversation, whatever it says; and what it says must
                    // not name a file elsewhere.
                    let stem = path.file_stem().unwrap_or_default();
                    conversation.id = stem.to_string_lossy().into_owned();
                    found.conversations.push(conversation.restored());
                }
                Ok(None) => {}
                Err(complaint) => found.complaints.push(complaint),
            }
        }
        found.conversations.sort_by(|a, b| b.id.cmp(&a.id));
        found
    }

    /// A name that no conversation has: later ones sort after earlier ones.
    pub fn new_id(&self) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = since.unwrap_or_default();
        format!("{:012}-{:09}", time.as_secs(), time.subsec_nanos())
    }

    /// Saves `conversation`, soon.
    pub fn save(&self, conversation: &Conversation) {
        self.write(self.path_of(&conversation.id), conversation);
    }

    /// Saves `value` at `path`, soon.
    pub fn write<T: Serialize>(&self, path: PathBuf, value: &T) {
        // Maps with keys other than text would be refused, and there are none.
        if let Ok(bytes) = serde_json::to_vec_pretty(value) {
            self.send(Work::Write(path, bytes));
        }
    }

    /// Removes a conversation.
    pub fn remove(&self, id: &str) {
        let path = self.path_of(id);
        if path.exists() {
            self.send(Work::Remove(path));
        }
    }

    fn send(&self, work: Work) {
        if let Some(sender) = &self.work {
            // The thread lives as long as the sender.
            let _ = sender.send(work);
        }
    }
}

impl Drop for Store {
    /// Waits until everything is written.
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Ending;
    use std::sync::{Arc, Mutex};

    fn silent(folder: &Path) -> Store {
        Store::open(folder.to_path_buf(), |_| {}).unwrap()
    }

    fn said(id: &str, text: &str) -> Conversation {
        let mut conversation = Conversation::new(id);
        conversation.ask(text);
        conversation.append("yes", false);
        conversation.end(Ending::Whole, None);
        conversation
    }

    #[test]
    fn what_is_saved_is_found_again_the_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = silent(folder.path());
        assert!(store.find().conversations.is_empty());
        store.save(&said("1", "a"));
        store.save(&said("2", "b"));
        store.save(&said("3", "c"));
        drop(store);
        let store = silent(folder.path());
        store.remove("2");
        drop(store);
        let found = silent(folder.path()).find();
        assert_eq!(found.conversations, [said("3", "c"), said("1", "a")]);
        assert!(found.complaints.is_empty());
    }

    #[test]
    fn a_conversation_is_where_it_lies_and_not_where_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let store = silent(folder.path());
        store.save(&said("1", "a"));
        drop(store);
        let store = silent(folder.path());
        let text = fs::read_to_string(store.path_of("1")).unwrap();
        let elsewhere = text.replace("\"id\": \"1\"", "\"id\": \"../../1\"");
        assert_ne!(elsewhere, text);
        fs::write(store.path_of("2"), elsewhere).unwrap();
        assert_eq!(store.find().conversations, [said("2", "a"), said("1", "a")]);
    }

    #[test]
    fn a_torn_temporary_file_leaves_the_old_conversation() {
        let folder = tempfile::tempdir().unwrap();
        let store = silent(folder.path());
        let path = store.path_of("1");
        store.save(&said("1", "old"));
        drop(store);
        // As a machine lost between write and rename leaves it.
        fs::write(path.with_extension(PART), b"{\"id\": \"1\", \"tur").unwrap();
        let store = silent(folder.path());
        let found = store.find();
        assert_eq!(found.conversations, [said("1", "old")]);
        assert!(found.complaints.is_empty());
        store.save(&said("1", "new"));
        drop(store);
        assert!(!path.with_extension(PART).exists());
        let found = silent(folder.path()).find();
        assert_eq!(found.conversations, [said("1", "new")]);
    }

    #[test]
    fn the_place_is_never_seen_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let texts = ["a".repeat(100_000), "b".repeat(200_000)];
        write_atomically(&path, texts[0].as_bytes()).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for turn in 0..20 {
                    write_atomically(&path, texts[turn % 2].as_bytes()).unwrap();
                }
            });
            while !writer.is_finished() {
                let text = fs::read_to_string(&path).unwrap();
                assert!(texts.contains(&text), "{} bytes", text.len());
            }
        });
    }

    #[test]
    fn an_unreadable_conversation_is_kept_aside_and_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let store = silent(folder.path());
        let path = store.path_of("7");
        write_atomically(&path, b"not json").unwrap();
        let found = store.find();
        assert!(found.conversations.is_empty());
        let [complaint] = found.complaints.as_slice() else {
            panic!("{:?}", found.complaints);
        };
        assert!(complaint.contains("is damaged") && complaint.contains("it is kept as"));
        assert!(!path.exists());
        let kept = fs::read_dir(store.conversations()).unwrap().next().unwrap();
        assert_eq!(fs::read(kept.unwrap().path()).unwrap(), b"not json");
        assert!(store.find().complaints.is_empty(), "told once");
    }

    #[test]
    fn what_cannot_be_saved_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        fs::write(&blocked, b"").unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let mine = told.clone();
        let store = Store::open(blocked, move |why| mine.lock().unwrap().push(why)).unwrap();
        store.save(&said("1", "a"));
        drop(store);
        let told = told.lock().unwrap();
        assert!(told[0].contains("cannot be saved"), "{told:?}");
    }
}
