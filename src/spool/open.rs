//! Opens a spool: lock, queue, replay, threads.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    QueueError, Spool,
    ages::Times,
    block::BadBlock,
    books::StreamBooks,
    codec::Packer,
    core::{Core, LEAST_MAX_BYTES},
    dead::DeadError,
    error::OpenError,
    failpoint,
    io::{Disk, FolderLock, RealDisk, check_writable},
    journal::Writer,
    keeper::Keeper,
    options::SpoolOptions,
    quarantine,
    queue::{Index, SledIndex},
    recovery::{self, Recovered},
    segment,
    state::{Checkpoint, DropReason, Progress},
};
use crate::record::{Stream, not_before, now_millis};

/// How long a start waits for the journal to take the count of lost letters.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens or makes the spool in `folder`.
pub(super) fn open(folder: &Path, options: SpoolOptions) -> Result<Spool, OpenError> {
    if options.max_bytes < LEAST_MAX_BYTES {
        return Err(OpenError::TooSmall { name: options.name, max_bytes: options.max_bytes, least: LEAST_MAX_BYTES });
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    for part in ["journal", "dead"] {
        let part = folder.join(part);
        disk.make_folder(&part).and_then(|()| check_writable(&part)).map_err(OpenError::io(part))?;
    }
    check_writable(folder).map_err(OpenError::io(folder))?;
    sync_ancestors(disk.as_ref(), folder);
    let lock = FolderLock::take(folder).map_err(OpenError::io(folder))?;
    let Some(lock) = lock else { return Err(OpenError::InUse { path: folder.to_owned() }) };
    let queue = folder.join("queue");
    // The format is checked before anything is changed.
    for part in ["journal", "dead"] {
        recovery::check_format(disk.as_ref(), &folder.join(part))?;
    }
    let index = SledIndex::open(&queue);
    let found = match index {
        Ok(index) => index.checkpoint().map(|checkpoint| (index, checkpoint)),
        Err(error) => Err(error),
    };
    failpoint::reach("replay");
    let times = found.as_ref().ok().and_then(|(index, _)| index.times());
    let (index, checkpoint, recovered) = match found {
        Ok((index, checkpoint)) => {
            let recovered = recovery::read(disk.as_ref(), &folder.join("journal"), checkpoint.as_ref())?;
            let usable = recovered.used_checkpoint || (checkpoint.is_none() && recovered.books.segments.is_empty());
            let rewound = checkpoint.as_ref().filter(|_| usable).map_or(Ok(()), |checkpoint| index.rewind(checkpoint));
            match (usable, rewound) {
                (true, Ok(())) => (Some(index), checkpoint, recovered),
                (_, rewound) => {
                    let reason =
                        rewound.err().map_or("it does not match the journal".to_owned(), |error| error.to_string());
                    drop(index);
                    (renew_index(folder, &reason), None, recovery::read(disk.as_ref(), &folder.join("journal"), None)?)
                }
            }
        }
        Err(error) => {
            let index = renew_index(folder, &error.to_string());
            (index, None, recovery::read(disk.as_ref(), &folder.join("journal"), None)?)
        }
    };
    let index = index.map(|index| Arc::new(index) as Arc<dyn Index>);
    // The journal tells of what came after the checkpoint, or of all.
    let noted_at = times.as_ref().map(|times| times.written_at);
    if let Some(latest) = recovered.written_at.max(noted_at) {
        not_before(latest);
    }
    let times = times.or(recovered.written_at.map(Times::at));
    let spool = start(folder, options, disk, index, (checkpoint, times), recovered, Some(lock))?;
    failpoint::reach("replayed");
    Ok(spool)
}

/// Makes the spool's folders last: a file is lost with the entry of any folder above it. The data folder and its own
/// entry are among them; those made by others may not be ours to read, and then are theirs to sync.
fn sync_ancestors(disk: &dyn Disk, folder: &Path) {
    for ancestor in folder.ancestors().take(3) {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        if let Err(error) = disk.sync_folder(ancestor) {
            tracing::warn!(folder = %ancestor.display(), %error, "cannot sync a folder: a power cut may take it");
        }
    }
}

/// Sets a queue aside that does not open or does not match, and makes a new one: the journal is the truth.
fn renew_index(folder: &Path, reason: &str) -> Option<SledIndex> {
    let queue = folder.join("queue");
    let aside = folder.join("quarantine").join(format!("queue-{}", now_millis()));
    tracing::warn!(folder = %queue.display(), reason, "the queue is made anew from the journal");
    let moved = RealDisk.make_folder(&folder.join("quarantine")).and_then(|()| RealDisk.rename(&queue, &aside));
    match moved {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(folder = %queue.display(), %error, "the queue cannot be set aside; going on without one");
            return None;
        }
        _ => {}
    }
    match SledIndex::open(&queue) {
        Ok(index) => Some(index),
        Err(error) => {
            tracing::error!(folder = %queue.display(), %error, "going on without a queue");
            None
        }
    }
}

/// Repairs what the replay found torn, and starts the threads.
pub(super) fn start(
    folder: &Path,
    options: SpoolOptions,
    disk: Arc<dyn Disk>,
    index: Option<Arc<dyn Index>>,
    (checkpoint, times): (Option<Checkpoint>, Option<Times>),
    recovered: Recovered,
    lock: Option<FolderLock>,
) -> Result<Spool, OpenError> {
    let packer = Packer::new(options.compression, options.encryption.as_ref()).map_err(OpenError::io(folder))?;
    let core = Core::new(folder, options, disk, recovered.books, false).map_err(OpenError::io(folder))?;
    *core.index.write() = index;
    let core = Arc::new(core);
    check_key(&core)?;
    settle_disk(&core, &recovered.damage, recovered.torn)?;
    let writer = Writer::new(Arc::clone(&core), packer);
    let keeper = Keeper::new(Arc::clone(&core), checkpoint, times);
    let threads = [
        spawn("spool-write", move || writer.run()).map_err(OpenError::io(folder))?,
        spawn("spool-keep", move || keeper.run()).map_err(OpenError::io(folder))?,
    ];
    core.keeper.ring();
    count_lost_letters(&core);
    Ok(Spool { core, threads: Mutex::new(threads.into()), lock: Mutex::new(lock) })
}

/// Counts the letters that damage cost, and notes among them that it is counted once the journal has the count: a crash
/// between the two counts them twice. A full disk delays the second note until letters are written again. Where the
/// journal does not take the count in time, a kill before it does loses the count.
fn count_lost_letters(core: &Core) {
    let lost = core.dead.lost();
    for (stream, &letters) in Stream::ALL.into_iter().zip(&lost).filter(|(_, letters)| **letters > 0) {
        core.warn(&format!("{letters} dead letters of {stream} are lost to damage; counted as dropped"));
        core.count_dropped(stream, DropReason::Damaged, letters);
    }
    if lost.iter().any(|letters| *letters > 0) && !is_counted(core) {
        core.report(format!("spool {}: the journal does not take the count of lost letters", core.folder.display()));
        return;
    }
    if let Err(error) = core.dead.settle() {
        core.report(format!("spool {}: noting how many letters there are: {error}", core.folder.display()));
    }
    core.measure();
}

/// Waits until the journal has what was counted as damaged; false if it does not take it.
fn is_counted(core: &Core) -> bool {
    core.hurry_notes();
    let counted = |progress: &Progress| progress.totals.dropped.get(&DropReason::Damaged).copied().unwrap_or(0);
    let counts = |of: fn(&StreamBooks) -> &Progress| {
        let books = core.books.lock();
        books.streams.each_ref().map(|stream| counted(of(stream)))
    };
    let wanted = counts(|books| &books.live);
    let deadline = Instant::now() + PATIENCE;
    while counts(|books| &books.durable).iter().zip(&wanted).any(|(have, want)| have < want) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Copies damage to the quarantine, cuts what a cut-off write left, and makes durable what the replay took in.
fn settle_disk(
    core: &Core,
    damage: &[(u64, segment::Damage)],
    torn: Option<(u64, segment::Damage)>,
) -> Result<(), OpenError> {
    let disk = core.disk.as_ref();
    let journal = core.journal_folder();
    let newest = core.books.lock().newest();
    let all = damage.iter().chain(torn.as_ref());
    for (segment, damage) in all {
        let path = segment::path(&journal, *segment);
        let file = disk.open(&path).map_err(OpenError::io(&path))?;
        quarantine::keep(core, *segment, file.as_ref(), damage);
        core.warn(&format!(
            "{}: {} bytes at {} are no whole block ({}); kept in quarantine/",
            path.display(),
            damage.bytes.end - damage.bytes.start,
            damage.bytes.start,
            damage.reason
        ));
    }
    let dead = core.folder.join("dead");
    for damaged in core.dead.damage() {
        let path = segment::path(&dead, damaged.segment);
        let file = disk.open(&path).map_err(OpenError::io(&path))?;
        quarantine::keep_letters(core, file.as_ref(), &damaged);
        let lost = damaged.lost.map_or_else(|| "perhaps some".to_owned(), |lost| lost.to_string());
        let damage = &damaged.damage;
        core.warn(&format!(
            "{}: {} damaged bytes at {} ({}); kept in quarantine/; dead letters lost by it: {lost}",
            path.display(),
            damage.bytes.end - damage.bytes.start,
            damage.bytes.start,
            damage.reason
        ));
    }
    if let Some(newest) = newest {
        let path = segment::path(&journal, newest);
        let file = disk.open_writable(&path).map_err(OpenError::io(&path))?;
        if let Some((_, damage)) =
            torn.filter(|(segment, damage)| *segment == newest && !matches!(damage.reason, BadBlock::Newer { .. }))
        {
            file.set_len(damage.bytes.start).map_err(OpenError::io(&path))?;
            if let Some(books) = core.books.lock().segments.get_mut(&newest) {
                books.bytes = damage.bytes.start;
            }
        }
        // Written before the start, perhaps never synced: it is handed out from now on.
        file.sync().and_then(|()| disk.sync_folder(&journal)).map_err(OpenError::io(&path))?;
    }
    core.dead.sync().map_err(|error| OpenError::io(&dead)(io::Error::other(error)))?;
    core.measure();
    Ok(())
}

/// A backlog that cannot be decrypted is named at the start; it stays as it is.
fn check_key(core: &Core) -> Result<(), OpenError> {
    if let Err(DeadError::NoKey { path, key }) = core.dead.check_key() {
        return Err(OpenError::WrongKey { path, key });
    }
    for stream in Stream::ALL {
        let open = core.books.lock().streams[stream as usize].next_open();
        if let Some(open) = open
            && let Err(QueueError::NoKey { path, key }) = core.readers[stream as usize].lock().look(core, open.start)
        {
            return Err(OpenError::WrongKey { path: path.into(), key });
        }
    }
    Ok(())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}
