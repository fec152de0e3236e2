//! Directories of the file sink: whole, compressed, in use, damaged, hostile.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use livekit_spool::{
    archive::{Archive, Limits, Listing},
    config::SinkConfig,
};

use crate::{
    questions::answers_as_the_records_do,
    support,
    truth::{LIMITS, NOW, as_json, deliver, ever, open, rooms_of, sessions, sink, truth},
};

fn sink_in(directory: &Path, more: &str) -> SinkConfig {
    sink(&format!("type: file, path: \"{}\"{more}", directory.display()))
}

/// The files of a stream, oldest first.
fn files(directory: &Path, stream: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let is_of_stream =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{stream}-")));
    let mut files: Vec<PathBuf> = entries.filter(is_of_stream).collect();
    files.sort();
    files
}

async fn list(archive: &dyn Archive) -> Listing {
    archive.list(&ever(), &LIMITS).await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_the_sinks_files_are_those_of_the_records_compressed_or_not_and_however_many() {
    for (compression, rotate) in [("none", "64MiB"), ("none", "20KiB"), ("gzip", "40KiB"), ("zstd", "100KiB")] {
        let directory = support::directory("files");
        let sink = sink_in(directory.path(), &format!(", compress: {compression}, rotate_bytes: {rotate}"));
        deliver(&sink, 20).await;
        let count = files(directory.path(), "events").len();
        assert!((count > 3) == (rotate != "64MiB"), "{count} files");
        answers_as_the_records_do(&*open(&sink)).await;
    }
}

/// A directory with the real set in several files.
async fn several_files() -> (tempfile::TempDir, SinkConfig) {
    let directory = support::directory("files");
    let sink = sink_in(directory.path(), ", rotate_bytes: 100KiB");
    deliver(&sink, 20).await;
    assert!(files(directory.path(), "events").len() > 3 && files(directory.path(), "stats").len() > 2);
    (directory, sink)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_of_the_sink_is_not_read_and_named_where_a_file_could_be() {
    let (directory, sink) = several_files().await;
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("events-20991122T010203.456Z.ndjson")).expect("a directory in a file's place");
    let outside = support::directory("outside");
    fs::write(outside.path().join("lines"), fs::read(&files(directory.path(), "events")[0]).expect("a file"))
        .expect("written");
    symlink(outside.path().join("lines"), at("events-20991123T010203.456Z.ndjson")).expect("a link");
    symlink("/dev/zero", at("stats-20991123T010203.456Z.ndjson")).expect("a link");
    for name in ["events.ndjson", "events-x.ndjson", "events-20991122T010203.456Z.ndjson.tmp", ".hidden", "notes.txt"] {
        fs::write(at(name), "{\"type\":\"ROOM_CREATED\"}\n").expect("written");
    }
    let pipe = rustix::fs::Mode::RUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, at("stats-20991122T010203.456Z.ndjson.gz"), pipe).expect("a pipe");
    let archive = open(&sink);
    let listing = list(&*archive).await;
    assert_eq!(listing.rooms, rooms_of(&truth()));
    let named = |unread: &[String], names: &[&str]| {
        assert_eq!(unread.len(), names.len(), "{unread:?}");
        assert!(names.iter().all(|name| unread.iter().any(|line| line.starts_with(*name))), "{unread:?}");
    };
    named(&listing.unread, &["events-20991122T010203.456Z.ndjson: ", "events-20991123T010203.456Z.ndjson: "]);
    let mut found = archive.records(&listing.rooms, &LIMITS).await.expect("records");
    named(&found.unread, &["events-20991122T010203.456Z.ndjson: ", "stats-20991122T010203.456Z.ndjson.gz: "]);
    for (sid, session) in truth() {
        assert_eq!(as_json(&found.take(&sid, NOW).expect("a session")), as_json(&session));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_too_long_to_be_read_is_named() {
    let (directory, sink) = several_files().await;
    let newest = files(directory.path(), "events").pop().expect("a file");
    let mut file = fs::OpenOptions::new().append(true).open(&newest).expect("the newest file");
    let mut line = vec![b' '; 35 << 20];
    line.push(b'\n');
    file.write_all(&line).expect("written");
    let listing = list(&*open(&sink)).await;
    assert_eq!(listing.rooms, rooms_of(&truth()));
    let name = newest.file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(listing.unread, [format!("{name}: lines longer than 33 MiB were left out")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_several_compressed_parts_is_read_to_its_end() {
    for compression in ["gzip", "zstd"] {
        let (directory, sink) = several_files().await;
        for path in files(directory.path(), "events").into_iter().chain(files(directory.path(), "stats")) {
            let content = fs::read(&path).expect("a file");
            let middle = content.len() / 2;
            let compressed = |part: &[u8]| {
                if compression == "zstd" {
                    return zstd::encode_all(part, 1).expect("compressed");
                }
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(part).expect("compressed");
                encoder.finish().expect("compressed")
            };
            let parts = [compressed(&content[..middle]), compressed(&content[middle..])].concat();
            let suffix = if compression == "zstd" { "zst" } else { "gz" };
            fs::write(path.with_extension(format!("ndjson.{suffix}")), parts).expect("written");
            fs::remove_file(&path).expect("removed");
        }
        answers_as_the_records_do(&*open(&sink)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_no_documents_are_left_out_and_named() {
    let (directory, sink) = several_files().await;
    let newest = files(directory.path(), "events").pop().expect("a file");
    let mut file = fs::OpenOptions::new().append(true).open(&newest).expect("the newest file");
    let sid = rooms_of(&truth())[0].sid.clone();
    file.write_all(b"\xff\xfe\x00 not UTF-8 \"type\":\"ROOM_CREATED\" \xc3\n").expect("written");
    file.write_all(b"{\"type\":\"ROOM_CREATED\",\"room\":\n\n\n[]\n7\n\"type\":\"ROOM_CREATED\"\n").expect("written");
    file.write_all(format!("{}{{\"room\":{{\"sid\":\"{sid}\"\n", "[".repeat(100_000)).as_bytes()).expect("written");
    file.write_all(b"{\"type\":\"ROOM_CREATED\",\"room\":{\"sid\":\"RM_torn\"},\"timestamp\":{\"seconds\":1795")
        .expect("written");
    let archive = open(&sink);
    let listing = list(&*archive).await;
    assert_eq!(listing.rooms, rooms_of(&truth()));
    let name = newest.file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(listing.unread, [format!("{name}: lines that are not valid JSON: 3")]);
    let mut found = archive.records(&listing.rooms, &LIMITS).await.expect("records");
    assert_eq!(found.unread, [format!("{name}: lines that are not valid JSON: 1")]);
    for (sid, session) in truth() {
        assert_eq!(as_json(&found.take(&sid, NOW).expect("a session")), as_json(&session));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_truncated_damaged_or_unreadable_is_named_and_all_others_are_read() {
    let all = rooms_of(&truth());
    for (compression, damage) in [
        ("gzip", "truncated"),
        ("gzip", "flipped"),
        ("gzip", "empty"),
        ("gzip", "more behind it"),
        ("zstd", "more behind it"),
        ("zstd", "empty"),
        ("zstd", "truncated"),
        ("zstd", "flipped"),
        ("zstd", "not compressed"),
    ] {
        let directory = support::directory("files");
        let sink = sink_in(directory.path(), &format!(", compress: {compression}, rotate_bytes: 100KiB"));
        deliver(&sink, 20).await;
        let closed: Vec<PathBuf> = files(directory.path(), "events")
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension != "ndjson"))
            .collect();
        let hurt = &closed[closed.len() / 2];
        let mut bytes = fs::read(hurt).expect("a file");
        match damage {
            "truncated" => bytes.truncate(bytes.len() / 2),
            "flipped" => {
                let middle = bytes.len() / 2;
                bytes[middle..middle + 16].fill(0xA5);
            }
            "empty" => bytes.clear(),
            "more behind it" => bytes.extend_from_slice(b"plain text\n"),
            _ => bytes = b"plain text\n".repeat(100),
        }
        fs::write(hurt, bytes).expect("written");
        let archive = open(&sink);
        let listing = list(&*archive).await;
        // Rooms are found by their creation, their end, or a join, of which one file has not all.
        assert!(listing.rooms.len() >= all.len() - 1, "{compression} {damage}: {:?}", listing.rooms);
        let name = hurt.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(listing.unread.len() == 1 && listing.unread[0].starts_with(&name), "{damage}: {:?}", listing.unread);
        let found = archive.records(&all, &LIMITS).await.expect("records");
        assert!(found.unread.iter().any(|line| line.starts_with(&name)), "{compression} {damage}: {:?}", found.unread);
        // What nobody knows may be there.
        let error = archive.room("RM_unknown", &LIMITS).await.expect_err("not everything was read").to_string();
        assert!(error.contains(&name), "{compression} {damage}: {error}");
    }
    if !rustix::process::geteuid().is_root() {
        let (directory, sink) = several_files().await;
        let closed = files(directory.path(), "events").remove(0);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).expect("a mode");
        let unread = list(&*open(&sink)).await.unread;
        assert!(unread.len() == 1 && unread[0].contains("Permission denied"), "{unread:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_compressed_or_removed_meanwhile_are_no_error() {
    let (directory, sink) = several_files().await;
    let archive = open(&sink);
    let reading = tokio::spawn({
        let archive = std::sync::Arc::clone(&archive);
        async move {
            let mut most = 0;
            for _ in 0..60 {
                let listing = list(&*archive).await;
                assert!(listing.unread.is_empty(), "{:?}", listing.unread);
                most = most.max(listing.rooms.len());
                let found = archive.records(&listing.rooms, &LIMITS).await.expect("records");
                assert!(found.unread.is_empty(), "{:?}", found.unread);
            }
            most
        }
    });
    // As the sink and a retention do it: a compressed file appears before the other one goes, and old files go.
    for path in files(directory.path(), "events").into_iter().chain(files(directory.path(), "stats")) {
        let (mut compressed, content) = (path.as_os_str().to_owned(), fs::read(&path).expect("a file"));
        compressed.push(".zst");
        let unfinished = directory.path().join("unfinished");
        fs::write(&unfinished, zstd::encode_all(&content[..], 1).expect("compressed")).expect("written");
        fs::rename(&unfinished, &compressed).expect("renamed");
        fs::remove_file(&path).expect("removed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for path in files(directory.path(), "stats") {
        fs::remove_file(path).expect("removed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(reading.await.expect("no panic"), 7);
    assert_eq!(list(&*archive).await.rooms, rooms_of(&truth()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_that_is_being_written_is_read_too() {
    let directory = support::directory("files");
    let sink = sink_in(directory.path(), "");
    let open_sink = sink.target.build(&crate::truth::encoder()).expect("options");
    open_sink.initialize().await.expect("ready");
    let archive = open(&sink);
    assert!(list(&*archive).await.rooms.is_empty());
    let events: Vec<Vec<u8>> = support::records::real_events().iter().map(prost::Message::encode_to_vec).collect();
    for events in events.chunks(100) {
        crate::truth::deliver_batch(&*open_sink, livekit_spool::record::Stream::Events, events).await;
        assert!(list(&*archive).await.unread.is_empty());
    }
    assert_eq!(list(&*archive).await.rooms, rooms_of(&truth()));
    assert_eq!(sessions(&*archive, &rooms_of(&truth())).await.len(), 7);
    open_sink.close().await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_one_line() {
    let directory = support::directory("files");
    let archive = open(&sink_in(&directory.path().join("nowhere"), ""));
    let said = archive.list(&ever(), &LIMITS).await.expect_err("no directory").to_string();
    assert!(said.contains("nowhere") && said.contains("No such file") && !said.contains('\n'), "{said}");
    archive.room("RM_x", &LIMITS).await.expect_err("no directory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_ends_with_the_newest_files_where_its_limits_do() {
    let (directory, sink) = several_files().await;
    // A list asks for little of each line; the records are as long as their lines.
    let size: u64 =
        files(directory.path(), "events").iter().map(|path| fs::metadata(path).expect("a file").len()).sum();
    let archive = open(&sink);
    let rooms = rooms_of(&truth());
    let found = archive.records(&rooms, &Limits { bytes: size / 2, ..LIMITS }).await.expect("records");
    assert_eq!(found.cut.len(), rooms.len(), "which rooms lack records is not known");
}
