//! Dead letters under attack: many, long ones, small quotas, a full disk, kills at each step, a key that is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::atomic::Ordering,
    time::Instant,
};

use super::{
    memory::{MemoryDisk, over},
    *,
};

fn dead_letter(number: u64, record: Vec<u8>) -> DeadLetter {
    DeadLetter {
        stream: Stream::Events,
        id: format!("AE_{number:06}"),
        received_at: 1,
        reason: format!("no {}", number % 10),
        attempts: 1,
        first_attempt_at: 1,
        last_attempt_at: 1 + number as i64 / 100,
        record,
    }
}

fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn ids(spool: &Spool) -> BTreeSet<String> {
    let dead_letters = spool.dead_letters(&DeadFilter::default(), 0, usize::MAX).expect("readable");
    dead_letters.into_iter().map(|dead_letter| dead_letter.id).collect()
}

fn is_full(result: Result<(), QueueError>) -> bool {
    match result {
        Ok(()) => false,
        Err(error @ QueueError::DeadLettersFull { dead_letters, .. }) => {
            assert!(dead_letters > 0, "{error}");
            true
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_hundred_thousand_letters_are_listed_and_dropped_in_seconds() {
    const DEAD_LETTERS: u64 = 100_000;
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    for first in (0..DEAD_LETTERS).step_by(1000) {
        let some: Vec<_> =
            (first..first + 1000).map(|number| dead_letter(number, record(number).into_bytes())).collect();
        spool.keep_dead_letters(&some).expect("kept");
    }
    spool.close().await;
    let since = Instant::now();
    let spool = open(directory.path());
    let opened = since.elapsed();
    let mut seen = 0;
    for skip in (0..DEAD_LETTERS).step_by(10_000) {
        seen += spool.dead_letters(&DeadFilter::default(), skip as usize, 10_000).expect("readable").len() as u64;
    }
    let listed = since.elapsed();
    let filter = |digit: u64| DeadFilter { reason: Some(format!("no {digit}")), ..DeadFilter::default() };
    assert_eq!(spool.drop_dead_letters(&filter(3)).expect("dropped"), DEAD_LETTERS / 10);
    let dropped_some = since.elapsed();
    assert_eq!(spool.drop_dead_letters(&DeadFilter::default()).expect("dropped"), DEAD_LETTERS * 9 / 10);
    let dropped = since.elapsed();
    eprintln!("opened {opened:?}, listed {listed:?}, dropped a tenth {dropped_some:?}, all {dropped:?}");
    assert_eq!((seen, spool.status().dead_letters()), (DEAD_LETTERS, 0));
    assert!(dropped < Duration::from_secs(60), "{dropped:?}");
    spool.close().await;
}

#[tokio::test]
async fn a_dead_letter_longer_than_the_quota_is_kept_alone_and_the_sink_continues_when_it_is_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let tight = SpoolOptions { dead_letters: DeadLettersOptions { max_bytes: 512 << 10 }, ..options() };
    let spool = Spool::open(directory.path(), tight.clone()).expect("opens");
    let long = |number| dead_letter(number, noise(number, 40 << 20));
    spool.keep_dead_letters(&[long(1)]).expect("alone, it is kept");
    assert!(is_full(spool.keep_dead_letters(&[dead_letter(2, noise(2, 100))])), "there is no space for another");
    assert!(is_full(spool.keep_dead_letters(&[long(3)])));
    let again = DeadLetter { reason: "still".into(), ..long(1) };
    spool.keep_dead_letters(&[again]).expect("its history is kept");
    assert!(spool.status().disk.dead < 41 << 20, "{}", spool.status().disk.dead);
    spool.close().await;
    let spool = Spool::open(directory.path(), tight).expect("opens");
    let kept = spool.dead_letters(&DeadFilter::default(), 0, 10).expect("readable").remove(0);
    assert_eq!((kept.attempts, kept.reason.as_str(), kept.record == long(1).record), (2, "still", true));
    assert_eq!(spool.remove_dead_letters(&[kept.key()]).expect("removed"), 1);
    assert!(spool.status().disk.dead <= 4096, "{}", spool.status().disk.dead);
    spool.keep_dead_letters(&[long(3)]).expect("there is space again");
    spool.close().await;
}

#[tokio::test]
async fn a_small_quota_keeps_dead_letters_of_any_length_as_they_come_and_go() {
    const QUOTA: u64 = 512 << 10;
    let directory = tempfile::tempdir().expect("a directory");
    let tight = SpoolOptions { dead_letters: DeadLettersOptions { max_bytes: QUOTA }, ..options() };
    let spool = Spool::open(directory.path(), tight.clone()).expect("opens");
    let mut there: BTreeMap<u64, usize> = BTreeMap::new();
    let mut longest = 0;
    for number in 0..300 {
        // 20 KB to 600 KB, mostly short.
        let hash = blake3::hash(&[number as u8, 7]);
        let share = u64::from(hash.as_bytes()[0]);
        let length = (20_000 + share * share * share * 580_000 / 16_600_000) as usize;
        while is_full(spool.keep_dead_letters(&[dead_letter(number, noise(number, length))])) {
            let gone = *there.keys().nth(hash.as_bytes()[1] as usize % there.len()).expect("a letter");
            there.remove(&gone);
            assert_eq!(spool.remove_dead_letters(&[dead_letter(gone, Vec::new()).key()]).expect("removed"), 1);
        }
        there.insert(number, length);
        longest = longest.max(length as u64);
        let (bytes, live) = (spool.status().disk.dead, there.values().sum::<usize>() as u64);
        assert!(bytes <= QUOTA + 8192 || there.len() == 1, "{bytes} bytes for {live}");
        if number % 50 == 49 {
            // A letter that fails again is kept whatever its length.
            let again: Vec<_> =
                there.iter().map(|(&number, &length)| dead_letter(number, noise(number, length))).collect();
            spool.keep_dead_letters(&again).expect("kept");
            assert!(spool.status().disk.dead <= QUOTA + longest + 8192);
        }
    }
    spool.close().await;
    let spool = Spool::open(directory.path(), tight).expect("opens");
    let dead_letters = spool.dead_letters(&DeadFilter::default(), 0, 1000).expect("readable");
    let found: BTreeMap<u64, usize> = dead_letters
        .iter()
        .map(|dead_letter| (dead_letter.id[3..].parse().expect("a number"), dead_letter.record.len()))
        .collect();
    assert_eq!(found, there);
    spool.close().await;
}

#[tokio::test]
async fn a_quota_of_nothing_still_keeps_one_dead_letter_at_a_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool =
        Spool::open(directory.path(), SpoolOptions { dead_letters: DeadLettersOptions { max_bytes: 0 }, ..options() })
            .expect("opens");
    for number in 0..5 {
        spool.keep_dead_letters(&[dead_letter(number, noise(number, 1000))]).expect("alone, it is kept");
        assert!(is_full(spool.keep_dead_letters(&[dead_letter(99, noise(99, 1000))])));
        assert_eq!(spool.drop_dead_letters(&DeadFilter::default()).expect("dropped"), 1);
    }
    spool.close().await;
}

#[tokio::test]
async fn on_a_full_disk_letters_are_refused_and_those_that_are_there_can_be_dropped_for_good() {
    let disk = MemoryDisk::new();
    let spool = over(&disk, None);
    let some: Vec<_> = (0..100).map(|number| dead_letter(number, noise(number, 1000))).collect();
    spool.keep_dead_letters(&some).expect("kept");
    *disk.faults.write.lock() = Some((0, std::io::ErrorKind::StorageFull));
    let refused = spool.keep_dead_letters(&[dead_letter(100, noise(100, 1000))]).expect_err("the disk is full");
    assert!(matches!(refused, QueueError::Io { .. }), "{refused}");
    assert_eq!(spool.status().dead_letters(), 100);
    let one = DeadFilter { id: Some("AE_000003".into()), ..DeadFilter::default() };
    let told = spool.drop_dead_letters(&one).expect_err("no queue is on disk").to_string();
    assert!(told.contains("a restart may bring some back"), "{told}");
    assert_eq!(spool.status().dead_letters(), 99, "it is gone nevertheless");
    disk.faults.free.store(0, Ordering::Relaxed);
    *disk.faults.write.lock() = Some((0, std::io::ErrorKind::StorageFull));
    assert_eq!(spool.drop_dead_letters(&DeadFilter::default()).expect("durable by the segments that go"), 99);
    assert_eq!(spool.status().disk.dead, 0);
    let after = disk.after_kill();
    let spool_after = over(&after, None);
    assert!(ids(&spool_after).is_empty());
    spool_after.close().await;
    spool.close().await;
}

fn encrypted(key: u8) -> SpoolOptions {
    let key = Key::new([key; 32]);
    SpoolOptions { encryption: Some(Keys::new(key, Vec::new())), ..options() }
}

#[tokio::test]
async fn without_their_key_letters_are_not_opened_and_not_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), encrypted(1)).expect("opens");
    spool.keep_dead_letters(&[dead_letter(1, noise(1, 100))]).expect("kept");
    spool.close().await;
    for wrong in [options(), encrypted(2)] {
        let error = Spool::open(directory.path(), wrong.clone()).expect_err("the key is missing");
        assert!(matches!(error, OpenError::WrongKey { .. }), "{error}");
        let stopped = Contents::of_stopped(directory.path(), wrong).expect("inspected");
        assert_eq!(stopped.status().dead_letters(), 1);
        let listed = stopped.each_dead_letter(&DeadFilter::default(), (0, 10), &|| false, &mut |_| true);
        let error = listed.expect_err("the key is missing");
        assert!(matches!(error, QueueError::NoKey { .. }), "{error}");
    }
    let spool = Spool::open(directory.path(), encrypted(1)).expect("opens");
    assert_eq!(ids(&spool).len(), 1);
    spool.close().await;
}

const CHILD: &str = "LIVEKIT_SPOOL_TEST_LETTERS";

/// Keeps, replaces, moves and drops letters, and says what was answered, until a failpoint ends it.
#[tokio::test]
#[ignore = "no test by itself: `a_kill_at_any_step_loses_no_dead_letter_and_brings_none_back` runs it"]
async fn child_that_is_killed() {
    let directory = std::env::var_os(CHILD).expect("a directory to write to");
    let tight = SpoolOptions {
        dead_letters: DeadLettersOptions { max_bytes: 256 << 10 },
        compression: Compression::NONE,
        ..options()
    };
    let spool = Spool::open(Path::new(&directory), tight).expect("opens");
    println!("\nopened");
    for round in 0..20 {
        spool.append(batch(Stream::Stats, round * 10..round * 10 + 10)).await.expect("accepted");
        println!("\naccepted 10");
        let rejections: Vec<_> = lease_all(&spool, Stream::Stats)
            .into_iter()
            .map(|record| Rejection { record, reason: "no".into(), attempts: 1, first_attempt_at: 1 })
            .collect();
        spool.dead_letter(Stream::Stats, rejections).expect("kept");
        let some: Vec<_> =
            (round * 10..round * 10 + 15).map(|number| dead_letter(number, noise(number, 1500))).collect();
        spool.keep_dead_letters(&some).expect("kept");
        println!("\nkept {} {}", round * 10, round * 10 + 15);
        let gone: Vec<_> = (round * 10..round * 10 + 9).map(|number| dead_letter(number, Vec::new()).key()).collect();
        println!("\nremoving {} {}", round * 10, round * 10 + 9);
        spool.remove_dead_letters(&gone).expect("removed");
        println!("\nremoved {} {}", round * 10, round * 10 + 9);
    }
    spool.close().await;
}

#[tokio::test]
async fn a_kill_at_any_step_loses_no_dead_letter_and_brings_none_back() {
    let steps =
        ["dead_write", "dead_written", "dead_noted", "dead_delete", "queue_change", "queue_flush", "segment_delete"];
    for (step, nth) in steps.iter().flat_map(|step| [1, 2, 5, 14].map(|nth| (step, nth))) {
        let directory = tempfile::tempdir().expect("a directory");
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "spool::tests::letters_attack::child_that_is_killed"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env(CHILD, directory.path())
            .env("LIVEKIT_SPOOL_FAILPOINT", format!("{step}:abort:{nth}"))
            .output()
            .expect("started");
        let context = format!("{step} {nth}");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let (mut there, mut doubtful, mut appended) = (BTreeSet::new(), BTreeSet::new(), 0);
        for line in told.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let numbers = || words[1].parse::<u64>().expect("a number")..words[2].parse::<u64>().expect("a number");
            match words[0] {
                "accepted" => appended += 10,
                "kept" => {
                    doubtful.clear();
                    there.extend(numbers());
                }
                "removing" => doubtful.extend(numbers()),
                "removed" => {
                    doubtful.clear();
                    there.retain(|number| !numbers().contains(number));
                }
                _ => {}
            }
        }
        let tight = SpoolOptions {
            dead_letters: DeadLettersOptions { max_bytes: 256 << 10 },
            compression: Compression::NONE,
            ..options()
        };
        let spool = Spool::open(directory.path(), tight).expect("opens");
        let dead_letters = spool.dead_letters(&DeadFilter::default(), 0, 10_000).expect("readable");
        let found: BTreeSet<u64> = dead_letters
            .iter()
            .filter(|dead_letter| dead_letter.stream == Stream::Events)
            .map(|dead_letter| dead_letter.id[3..].parse().expect("a number"))
            .collect();
        assert_eq!(
            dead_letters.iter().map(DeadLetter::key).collect::<BTreeSet<_>>().len(),
            dead_letters.len(),
            "{context}: none twice"
        );
        assert!(
            there.iter().all(|number| found.contains(number) || doubtful.contains(number)),
            "{context}: {there:?} {found:?}"
        );
        let last = there.last().map_or(0, |last| last + 1);
        assert!(
            found.iter().all(|number| there.contains(number) || *number >= last.saturating_sub(5)),
            "{context}: {found:?}"
        );
        // Records are in the queue, or among the letters, or both for a moment.
        let status = spool.status();
        let dead = dead_letters.iter().filter(|dead_letter| dead_letter.stream == Stream::Stats).count() as u64;
        assert!(status.records() + dead >= appended, "{context}: {} and {dead} of {appended}", status.records());
        let events = &status.streams[&Stream::Events];
        assert!(events.dropped.is_empty(), "{context}: {:?}", events.dropped);
        spool.close().await;
    }
}
