use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

use tokio::time::advance;

use super::*;

const STALL: Duration = Duration::from_secs(5);

/// A recording that may be joined, within a budget.
fn recording(hint: SizeHint, budget: &Arc<Budget>) -> (Arc<Recording>, Invitation) {
    let recording = Recording::new(hint, &Arc::default(), budget);
    let invitation = Invitation::to(&recording);
    (recording, invitation)
}

fn unbounded(hint: SizeHint) -> (Arc<Recording>, Invitation) {
    recording(hint, &Budget::new(Some(u64::MAX), 0))
}

fn step(reader: &mut Reader) -> Option<Step> {
    match reader.poll_step(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(step) => Some(step),
        Poll::Pending => None,
    }
}

fn read(reader: &mut Reader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Step::Frame(frame)) = step(reader) {
        all.extend_from_slice(&frame.into_data().unwrap());
    }
    all
}

fn is_stalled(reader: &mut Reader) -> bool {
    matches!(step(reader), Some(Step::Broken(error)) if error.to_string().contains("too slowly"))
}

fn is_ready(future: impl Future) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    pin!(future).poll(&mut cx).is_ready()
}

fn frame(byte: u8, length: usize) -> Bytes {
    vec![byte; length].into()
}

#[test]
fn frames_of_any_length_are_read_whole_from_any_place() {
    let budget = Budget::new(Some(u64::MAX), 0);
    let (recording, invitation) = recording(SizeHint::default(), &budget);
    let mut readers = Vec::new();
    let (mut expected, mut read_so_far) = (Vec::new(), Vec::new());
    for (i, length) in [1, 4095, 1, 4096, 3, 5000, 0, 4095, 4095, 2, 9000, 1]
        .into_iter()
        .enumerate()
    {
        readers.push(invitation.reader());
        read_so_far.push(Vec::new());
        let data = frame(u8::try_from(i).unwrap(), length);
        expected.extend_from_slice(&data);
        recording.push(data).unwrap();
        for (reader, so_far) in readers.iter_mut().zip(&mut read_so_far).step_by(2) {
            so_far.extend(read(reader));
        }
    }
    let whole = recording.to_bytes();
    recording.finish(None);
    for (reader, so_far) in readers.iter_mut().zip(&mut read_so_far) {
        so_far.extend(read(reader));
        assert_eq!(*so_far, expected);
        assert!(reader.is_end_stream());
    }
    assert_eq!(whole, expected);
    drop((readers, invitation, recording));
    assert_eq!(budget.held(), 0);
}

// Invariant 66.
#[test]
fn a_body_of_tiny_frames_takes_its_bytes_and_little_more() {
    let budget = Budget::new(Some(u64::MAX), 0);
    let (recording, _invitation) = recording(SizeHint::default(), &budget);
    for _ in 0..100_000 {
        recording.push(Bytes::from_static(b"x")).unwrap();
    }
    assert!(recording.lock().chunks.len() <= 100_000 / SHORT_BYTES + 2);
    assert!((100_000..100_000 + SHORT_BYTES as u64).contains(&budget.held()));
}

#[test]
fn the_hint_counts_down_and_never_contradicts_itself() {
    let (recording, invitation) = unbounded(SizeHint::with_exact(4));
    let mut reader = invitation.reader();
    assert_eq!(reader.size_hint().exact(), Some(4));
    recording.push(Bytes::from_static(b"abcdef")).unwrap();
    read(&mut reader);
    assert_eq!(reader.size_hint().exact(), Some(0));
    let (unknown, invitation) = unbounded(SizeHint::default());
    unknown.push(Bytes::from_static(b"abc")).unwrap();
    let hint = invitation.reader().size_hint();
    assert_eq!((hint.lower(), hint.upper()), (3, None));
}

#[test]
fn a_single_frame_is_stored_as_it_came_if_its_buffer_is_no_longer() {
    for (capacity, is_kept) in [(5000, true), (5312, true), (5313, false), (9000, false)] {
        for is_last in [true, false] {
            let mut buffer = Vec::with_capacity(capacity);
            buffer.resize(5000, b'x');
            let pointer = buffer.as_ptr();
            let data = Bytes::from(buffer);
            let (recording, _invitation) = unbounded(SizeHint::default());
            let added = if is_last {
                recording.hold_back(data)
            } else {
                recording.push(data)
            };
            added.unwrap();
            let stored = recording.to_bytes();
            assert_eq!(stored.as_ptr() == pointer, is_kept, "{capacity} {is_last}");
            assert_eq!(stored, vec![b'x'; 5000]);
        }
    }
}

// Invariant 66.
#[test]
fn a_recording_takes_no_more_than_the_budget() {
    let budget = Budget::new(Some(10_000), 0);
    let (one, _invitation) = recording(SizeHint::default(), &budget);
    one.push(frame(1, 5000)).unwrap();
    one.push(frame(1, 4096)).unwrap();
    assert_eq!(one.push(frame(1, 905)), Err(frame(1, 905)));
    assert_eq!(one.hold_back(frame(1, 905)), Err(frame(1, 905)));
    assert!(budget.held() <= 10_000);
    let (two, _invitation) = recording(SizeHint::default(), &budget);
    two.push(frame(1, 904)).unwrap();
    assert!(two.push(frame(1, 1)).is_err());
    assert_eq!((one.bytes(), two.bytes()), (9096, 904));
}

// Invariant 66.
#[tokio::test(start_paused = true)]
async fn a_window_holds_what_the_slowest_reader_still_has_to_read() {
    let budget = Budget::new(Some(u64::MAX), 0);
    let (recording, invitation) = recording(SizeHint::default(), &budget);
    let (mut fast, mut slow) = (invitation.reader(), recording.requesters_reader());
    recording.push(frame(0, 5000)).unwrap();
    drop(invitation);
    let window = Window::on(recording, 12_000, STALL).unwrap();
    for i in 1..4 {
        assert!(is_ready(window.room()), "{i}");
        window.data(frame(i, 5000), false);
        assert_eq!(read(&mut fast).len(), if i == 1 { 10_000 } else { 5000 });
        if i == 2 {
            assert_eq!(budget.held(), 15_000);
            assert!(!is_ready(window.room()), "the slow one has read nothing");
            assert!(matches!(step(&mut slow), Some(Step::Frame(_))));
        }
    }
    assert_eq!(budget.held(), 15_000);
    assert_eq!(read(&mut slow).len(), 15_000);
    assert_eq!(budget.held(), 0);
    window.data(frame(9, 10), true);
    window.finish(None);
    for reader in [&mut fast, &mut slow] {
        assert_eq!(read(reader), [9; 10]);
        assert!(reader.is_end_stream() && reader.whole_length() == Some(20_010));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_reader_is_left_behind_after_the_stall_timeout_and_the_others_go_on() {
    let (recording, invitation) = unbounded(SizeHint::default());
    let mut readers = [0; 3].map(|_| invitation.reader());
    drop(invitation);
    let window = Window::on(recording, 10, STALL).unwrap();
    window.data(frame(0, 10), false);
    let [stops, stops_later, goes_on] = &mut readers;
    assert_eq!(read(goes_on).len(), 10);
    advance(Duration::from_secs(4)).await;
    assert_eq!(read(stops_later).len(), 10);
    assert!(!is_ready(window.room()));
    let began = Instant::now();
    assert!(window.room().await);
    assert_eq!(
        began.elapsed(),
        Duration::from_secs(1),
        "5 s after it stopped"
    );
    assert!(is_stalled(stops));
    window.data(frame(1, 10), false);
    assert_eq!(read(goes_on), [1; 10]);
    let began = Instant::now();
    assert!(window.room().await);
    assert_eq!(began.elapsed(), STALL);
    assert!(is_stalled(stops_later));
    window.data(frame(2, 10), false);
    assert_eq!(step(goes_on).map(|_| ()), Some(()));
}

#[tokio::test(start_paused = true)]
async fn the_last_reader_of_a_window_may_take_as_long_as_it_likes() {
    let (recording, invitation) = unbounded(SizeHint::default());
    let (mut last, leaves) = (invitation.reader(), invitation.reader());
    drop(invitation);
    let window = Window::on(recording, 10, STALL).unwrap();
    window.data(frame(0, 10), false);
    drop(leaves);
    let waited = tokio::time::timeout(Duration::from_secs(3600), window.room());
    assert!(waited.await.is_err());
    assert_eq!(read(&mut last).len(), 10);
    assert!(is_ready(window.room()));
    drop(last);
    assert!(!window.room().await);
    assert!(is_ready(window.unread()));
}

#[tokio::test(start_paused = true)]
async fn the_start_of_a_window_is_kept_for_those_who_were_told_of_it_and_no_longer_than_for_a_reader()
 {
    let (recording, invitation) = unbounded(SizeHint::default());
    let mut requesters = recording.requesters_reader();
    recording.push(frame(0, 10)).unwrap();
    let window = Window::on(recording, 10, STALL).unwrap();
    assert_eq!(read(&mut requesters).len(), 10);
    let mut comes_in_time = invitation.reader();
    let began = Instant::now();
    assert!(!is_ready(window.room()));
    assert_eq!(read(&mut comes_in_time).len(), 10);
    assert!(window.room().await);
    assert_eq!(began.elapsed(), STALL, "another may still come");
    assert!(is_stalled(&mut invitation.reader()));
    window.data(frame(1, 10), false);
    assert_eq!(read(&mut comes_in_time), [1; 10]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_only_its_requester_reads_is_handed_over_to_it() {
    let (recording, invitation) = unbounded(SizeHint::default());
    let mut requesters = recording.requesters_reader();
    recording.push(frame(0, 10)).unwrap();
    drop(invitation);
    assert!(Window::on(recording, 10, STALL).is_none());
    assert_eq!(read(&mut requesters).len(), 10);
    assert!(matches!(step(&mut requesters), Some(Step::HandedOver)));
}

// Invariant 66.
#[tokio::test(start_paused = true)]
async fn with_an_exhausted_budget_a_window_passes_one_frame_at_a_time() {
    let budget = Budget::new(Some(0), 0);
    let (recording, invitation) = recording(SizeHint::default(), &budget);
    let mut readers = [invitation.reader(), invitation.reader()];
    drop(invitation);
    let window = Window::on(recording, 1 << 20, STALL).unwrap();
    for i in 0..100 {
        assert!(is_ready(window.room()));
        window.data(frame(i, 1000), false);
        assert_eq!(budget.held(), 1000);
        for reader in &mut readers {
            assert!(!is_ready(window.room()));
            assert_eq!(read(reader), [i; 1000]);
        }
        assert_eq!(budget.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_of_tiny_frames_has_a_bound_on_their_number() {
    let (recording, invitation) = unbounded(SizeHint::default());
    let mut readers = [invitation.reader(), invitation.reader()];
    drop(invitation);
    let window = Window::on(recording, 1 << 20, STALL).unwrap();
    for _ in 0..MIN_WINDOW_FRAMES {
        assert!(is_ready(window.room()));
        window.data(frame(1, 1), false);
    }
    assert!(!is_ready(window.room()));
    assert!(readers.iter_mut().all(|reader| step(reader).is_some()));
    assert!(is_ready(window.room()));
}

#[tokio::test(start_paused = true)]
async fn readers_that_have_read_all_when_the_window_begins_do_not_hold_it_up() {
    let (recording, invitation) = unbounded(SizeHint::default());
    let mut readers = [invitation.reader(), invitation.reader()];
    // The second is a short frame, which is put together with what follows.
    for byte in 0..2 {
        recording.push(frame(byte, 5)).unwrap();
    }
    let mut tasks = readers.each_mut().map(|reader| {
        let read_all = poll_fn(move |cx| {
            while let Poll::Ready(step) = reader.poll_step(cx) {
                assert!(matches!(step, Step::Frame(_)));
            }
            Poll::<()>::Pending
        });
        tokio_test::task::spawn(read_all)
    });
    for task in &mut tasks {
        assert!(task.poll().is_pending());
    }
    drop(invitation);
    let window = Window::on(recording, 5, STALL).unwrap();
    let mut room = tokio_test::task::spawn(window.room());
    assert!(
        room.poll().is_pending(),
        "what they have read is still kept"
    );
    for task in &mut tasks {
        assert!(task.is_woken());
        assert!(task.poll().is_pending());
    }
    assert!(room.is_woken());
    assert!(room.poll().is_ready());
}
