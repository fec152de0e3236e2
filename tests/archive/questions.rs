//! What every archive has to answer in the same way, once it has the real set.

use livekit_spool::{
    archive::{Archive, ArchiveError, Limits, Listing, Query, Room, summaries},
    session::{Summary, Time},
};

use crate::truth::{LIMITS, NOW, as_json, ever, rooms_of, sessions, truth};

/// Asks everything.
pub(crate) async fn answers_as_the_records_do(archive: &dyn Archive) {
    gives_the_sessions_of_the_records(archive).await;
    lists_the_rooms_of_each_range(archive).await;
    finds_rooms_by_name_and_sid(archive).await;
    keeps_to_its_limits(archive).await;
}

async fn list(archive: &dyn Archive, query: &Query, limits: &Limits) -> Listing {
    let listing = archive.list(query, limits).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(listing.unread.is_empty(), "{:?}", listing.unread);
    listing
}

async fn gives_the_sessions_of_the_records(archive: &dyn Archive) {
    let truth = truth();
    let listing = list(archive, &ever(), &LIMITS).await;
    assert_eq!((&listing.rooms, listing.complete_from), (&rooms_of(&truth), None));
    let found = sessions(archive, &listing.rooms).await;
    for (sid, session) in &truth {
        assert_eq!(found[sid], as_json(session), "{sid} of {}", archive.address());
        let alone: Vec<Room> = listing.rooms.iter().filter(|room| room.sid == *sid).cloned().collect();
        assert_eq!(sessions(archive, &alone).await[sid], as_json(session), "{sid} alone");
    }
    let (summed, _) =
        summaries(archive, &ever(), &LIMITS, NOW, &|_, _| {}).await.unwrap_or_else(|error| panic!("{error}"));
    let expected: Vec<Summary> = listing.rooms.iter().map(|room| Summary::of(&truth[&room.sid])).collect();
    assert_eq!(summed, expected);
    assert!(archive.records(&[], &LIMITS).await.expect("nothing to read").cut.is_empty());
}

async fn lists_the_rooms_of_each_range(archive: &dyn Archive) {
    let rooms = rooms_of(&truth());
    // Just before and at the beginning and the end of each room.
    let times = rooms.iter().flat_map(|room| [room.started_at, room.ended_at.expect("they have ended")]);
    let mut times: Vec<Time> = times.flat_map(|time| [Time(time.0 - 1), time, Time(time.0 + 1)]).collect();
    times.sort();
    for (i, &from) in times.iter().enumerate().step_by(3) {
        for &to in times[i..].iter().step_by(4) {
            let there = |room: &&Room| room.started_at < to && room.ended_at.is_some_and(|ended_at| ended_at >= from);
            let expected: Vec<Room> = rooms.iter().filter(there).cloned().collect();
            let query = Query { from, to, ..ever() };
            assert_eq!(list(archive, &query, &LIMITS).await.rooms, expected, "{from} to {to} of {}", archive.address());
        }
    }
}

async fn finds_rooms_by_name_and_sid(archive: &dyn Archive) {
    let rooms = rooms_of(&truth());
    for room in &rooms {
        let named: Vec<Room> = rooms.iter().filter(|other| other.name == room.name).cloned().collect();
        let query = Query { room_name: Some(room.name.clone()), ..ever() };
        assert_eq!(list(archive, &query, &LIMITS).await.rooms, named);
        let query = Query { room_prefix: Some(room.name.clone()), ..ever() };
        assert_eq!(list(archive, &query, &LIMITS).await.rooms, named);
        assert_eq!(archive.room(&room.sid, &LIMITS).await.expect("an answer").as_ref(), Some(room));
    }
    for (prefix, count) in [("", 7), ("room", 7), ("room_", 0), ("room%", 0), ("ro.m", 0), ("Room", 0), ("$room", 0)] {
        let query = Query { room_prefix: Some(prefix.to_owned()), ..ever() };
        assert_eq!(list(archive, &query, &LIMITS).await.rooms.len(), count, "{prefix:?}");
    }
    for sid in ["RM_nosuch", "", "RM_", "' OR true --", "$ne", "\"", &rooms[0].sid[..8]] {
        assert_eq!(archive.room(sid, &LIMITS).await.expect("an answer"), None, "{sid:?}");
        let room = Room { sid: sid.to_owned(), ..rooms[0].clone() };
        assert!(sessions(archive, &[room]).await.is_empty(), "{sid:?}");
    }
}

async fn keeps_to_its_limits(archive: &dyn Archive) {
    let rooms = rooms_of(&truth());
    for most in 0..=rooms.len() + 1 {
        let listing = list(archive, &ever(), &Limits { rooms: most, ..LIMITS }).await;
        assert_eq!(listing.rooms, rooms[..most.min(rooms.len())], "{most}");
        assert_eq!(listing.complete_from.is_some(), most < rooms.len(), "{most}: {:?}", listing.complete_from);
        // All rooms that began then or later are in it.
        let from = listing.complete_from.unwrap_or(Time(0));
        let since = |rooms: &[Room]| rooms.iter().filter(|room| room.started_at >= from).count();
        assert_eq!(since(&rooms), since(&listing.rooms), "{most}");
    }
    let mut bytes = 1;
    loop {
        let limits = Limits { bytes, ..LIMITS };
        let listing = list(archive, &ever(), &limits).await;
        let from = listing.complete_from.unwrap_or(Time(0));
        let expected: Vec<Room> = rooms.iter().filter(|room| room.started_at >= from).cloned().collect();
        assert_eq!(listing.rooms, expected, "{bytes} bytes");
        let mut found = archive.records(&rooms, &limits).await.expect("an answer");
        let cut = found.cut.clone();
        for room in rooms.iter().filter(|room| !cut.contains(&room.sid)) {
            let session = found.take(&room.sid, NOW).expect("a session");
            assert_eq!(as_json(&session), as_json(&truth()[&room.sid]), "{bytes} bytes");
        }
        if found.cut.is_empty() {
            break;
        }
        bytes *= 4;
    }
    assert!(bytes > 1, "the limit did nothing");
    let none = Limits { time: std::time::Duration::ZERO, ..LIMITS };
    match archive.list(&ever(), &none).await {
        Err(ArchiveError::Slow { .. }) => {}
        other => {
            let listing = other.expect("slow, or less than everything");
            assert_eq!((listing.rooms, listing.complete_from), (Vec::new(), Some(NOW)));
        }
    }
    match archive.records(&rooms, &none).await {
        Err(ArchiveError::Slow { .. }) => {}
        other => assert_eq!(other.expect("slow, or less than everything").cut.len(), rooms.len()),
    }
}
