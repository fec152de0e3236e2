//! Records are private on disk: file modes, encryption.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn encrypted(current: u8, previous: &[u8]) -> SpoolOptions {
    let key = |byte: u8| Key::new([byte; 32]);
    let keys = Keys::new(key(current), previous.iter().map(|&byte| key(byte)).collect());
    SpoolOptions { encryption: Some(keys), compression: Compression::NONE, ..options() }
}

fn visit(directory: &Path, file: &mut impl FnMut(&Path)) {
    for path in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        file(&path);
        if path.is_dir() {
            visit(&path, file);
        }
    }
}

#[tokio::test]
async fn no_one_else_may_read_the_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let inside = directory.path().join("spool");
    let spool = open(&inside);
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    let record = lease_all(&spool, Stream::Events).remove(0);
    let rejection = Rejection { record, reason: "no".into(), attempts: 1, first_attempt_at: 0 };
    spool.dead_letter(Stream::Events, vec![rejection]).expect("kept");
    spool.close().await;
    let mode = |path: &Path| path.metadata().expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&inside), 0o700);
    // sled makes its files by itself; the directories around them keep others out.
    for part in ["journal", "queue", "dead", "dead/journal", "dead/queue"] {
        assert_eq!(mode(&inside.join(part)), 0o700, "{part}");
    }
    for part in ["journal", "dead/journal"] {
        visit(&inside.join(part), &mut |path| assert_eq!(mode(path), 0o600, "{}", path.display()));
    }
}

#[tokio::test]
async fn encrypted_records_are_nowhere_in_clear() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), encrypted(1, &[])).expect("opens");
    spool.append(batch(Stream::Events, 0..100)).await.expect("accepted");
    let records = lease_all(&spool, Stream::Events);
    assert_eq!(texts(&records), expected(0..100));
    let rejection = Rejection { record: records[7].clone(), reason: "no".into(), attempts: 1, first_attempt_at: 0 };
    spool.dead_letter(Stream::Events, vec![rejection]).expect("kept");
    spool.close().await;
    let clear = b"of many that look alike";
    visit(directory.path(), &mut |path| {
        if path.is_file() {
            let bytes = std::fs::read(path).expect("a file");
            assert!(!bytes.windows(clear.len()).any(|window| window == clear), "{}", path.display());
        }
    });
    let spool = Spool::open(directory.path(), encrypted(1, &[])).expect("opens");
    assert_eq!(lease_all(&spool, Stream::Events).len(), 99);
    assert_eq!(spool.dead_letters(&DeadFilter::default(), 0, 10).expect("readable")[0].record, record(7).as_bytes());
    spool.close().await;
}

#[tokio::test]
async fn keys_rotate_and_the_old_backlog_stays_readable() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), encrypted(1, &[])).expect("opens");
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    spool.close().await;
    let spool = Spool::open(directory.path(), encrypted(2, &[1])).expect("opens");
    spool.append(batch(Stream::Events, 10..20)).await.expect("accepted");
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), expected(0..20));
    spool.acknowledge(Stream::Events, &[0..10]).expect("noted");
    spool.close().await;
    let spool = Spool::open(directory.path(), encrypted(2, &[])).expect("the old key is no longer needed");
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), expected(10..20));
    spool.close().await;
}

#[tokio::test]
async fn a_wrong_key_is_a_clear_error_and_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), encrypted(1, &[])).expect("opens");
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    spool.close().await;
    let error = Spool::open(directory.path(), encrypted(2, &[])).expect_err("the wrong key");
    assert!(matches!(error, OpenError::WrongKey { .. }), "{error}");
    let error = Spool::open(directory.path(), options()).expect_err("no key");
    assert!(matches!(error, OpenError::WrongKey { .. }), "{error}");
    let spool = Spool::open(directory.path(), encrypted(1, &[])).expect("opens");
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), expected(0..10));
    spool.close().await;
}

#[tokio::test]
async fn dead_letters_of_a_key_that_is_missing_are_a_clear_error_and_are_not_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), encrypted(1, &[])).expect("opens");
    spool.append(batch(Stream::Events, 0..1)).await.expect("accepted");
    let rejected = lease_all(&spool, Stream::Events).remove(0);
    let rejection = Rejection { record: rejected, reason: "no".into(), attempts: 1, first_attempt_at: 0 };
    spool.dead_letter(Stream::Events, vec![rejection]).expect("kept");
    spool.close().await;
    let before = basics::contents(&directory.path().join("dead/journal"));
    for keys in [encrypted(2, &[]), options()] {
        let error = Spool::open(directory.path(), keys.clone()).expect_err("the key is missing");
        assert!(matches!(error, OpenError::WrongKey { .. }) && error.to_string().contains("dead"), "{error}");
        let stopped = Contents::of_stopped(directory.path(), keys).expect("the figures can be seen");
        let listed = stopped.each_dead_letter(&DeadFilter::default(), (0, 10), &|| false, &mut |_| true);
        let error = listed.expect_err("unreadable");
        assert!(matches!(error, QueueError::NoKey { .. }), "{error}");
    }
    assert_eq!(basics::contents(&directory.path().join("dead/journal")), before);
    let spool = Spool::open(directory.path(), encrypted(2, &[1])).expect("opens");
    assert_eq!(spool.dead_letters(&DeadFilter::default(), 0, 10).expect("readable")[0].record, record(0).as_bytes());
    spool.close().await;
}

#[test]
fn a_key_never_shows() {
    assert!(!format!("{:?}", encrypted(77, &[78])).contains("77, 77"));
}
