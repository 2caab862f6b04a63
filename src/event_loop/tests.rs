use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

fn on_loop<F: Future>(main: F) -> F::Output {
    run(main, || ()).unwrap()
}

/// An action of another thread after a while.
fn later(act: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        act();
    });
}

async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn source() -> (Source<UnixStream>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(LONG)).unwrap();
    (Source::new(ours).unwrap(), theirs)
}

fn poll_read(
    source: &Source<UnixStream>,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    source.poll_transfer(Direction::Read, cx, |mut socket| {
        let bytes = socket.read(buffer)?;
        let is_less = (1..buffer.len()).contains(&bytes);
        Ok((bytes, if is_less { More::WouldBlock } else { More::MayFollow }))
    })
}

async fn read(source: &Source<UnixStream>, buffer: &mut [u8]) -> usize {
    poll_fn(|cx| poll_read(source, cx, buffer)).await.unwrap()
}

#[test]
fn a_task_runs_when_it_is_spawned_and_whenever_it_is_woken() {
    let heard = on_loop(async {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let task = Task::spawn({
            let heard = Rc::clone(&heard);
            async move {
                for round in 0..3 {
                    heard.borrow_mut().push(round);
                    yield_now().await;
                }
                "all"
            }
        });
        let mut task = task;
        assert_eq!(poll_fn(|cx| task.poll(cx)).await, Ok("all"));
        heard.take()
    });
    assert_eq!(heard, [0, 1, 2]);
}

#[test]
fn tasks_run_in_the_order_in_which_they_became_ready_and_more_than_run_at_once() {
    let order = on_loop(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let group = TaskGroup::default();
        for number in 0..3 * RUNS_MAX {
            let order = Rc::clone(&order);
            group.spawn(async move { order.borrow_mut().push(number) });
        }
        group.emptied().await;
        order.take()
    });
    assert_eq!(order, (0..3 * RUNS_MAX).collect::<Vec<_>>());
}

#[test]
fn another_thread_wakes_a_loop_that_waits() {
    for _ in 0..10 {
        let (tell, hear) = tokio::sync::oneshot::channel();
        later(move || tell.send(7).unwrap());
        assert_eq!(on_loop(hear), Ok(7));
    }
}

#[test]
fn nothing_is_lost_of_what_many_threads_wake() {
    const EACH: u32 = 2000;
    let sum = on_loop(async {
        let (tell, mut hear) = tokio::sync::mpsc::unbounded_channel();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let tell = tell.clone();
                std::thread::spawn(move || (0..EACH).for_each(|number| tell.send(number).unwrap()))
            })
            .collect();
        drop(tell);
        let mut sum = 0;
        while let Some(number) = hear.recv().await {
            sum += u64::from(number);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        sum
    });
    assert_eq!(sum, 4 * (0..u64::from(EACH)).sum::<u64>());
}

#[test]
fn a_socket_wakes_who_waits_for_it_each_time() {
    on_loop(async {
        let (source, mut peer) = source();
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while peer.read(&mut byte).unwrap() > 0 {
                peer.write_all(&byte).unwrap();
            }
        });
        for round in 0..200_u8 {
            source.get_ref().write_all(&[round]).unwrap();
            let mut buffer = [0; 64];
            assert_eq!((read(&source, &mut buffer).await, buffer[0]), (1, round));
            assert!(!source.is_ready(Direction::Read), "less than asked for is all there is");
        }
        drop(source);
        echo.join().unwrap();
    });
}

#[test]
fn an_end_that_came_with_the_last_bytes_is_seen() {
    on_loop(async {
        let (source, mut peer) = source();
        peer.write_all(b"last words").unwrap();
        drop(peer);
        let mut buffer = [0; 64];
        assert_eq!(read(&source, &mut buffer).await, 10);
        assert_eq!(read(&source, &mut buffer).await, 0);
        assert_eq!(read(&source, &mut buffer).await, 0);
    });
}

#[test]
fn who_has_been_told_to_wait_is_woken_by_the_socket_alone() {
    on_loop(async {
        let (source, peer) = source();
        let mut polls = 0;
        let started = Instant::now();
        later(move || (&peer).write_all(b"x").unwrap());
        poll_fn(|cx| {
            polls += 1;
            if source.will_wake(Direction::Read, cx) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        assert_eq!(polls, 2);
        assert!(started.elapsed() >= Duration::from_millis(20));
    });
}

#[test]
fn a_task_that_transfers_without_end_gives_others_their_turn() {
    on_loop(async {
        let (source, peer) = source();
        let flood = std::thread::spawn(move || while (&peer).write_all(&[0; 4096]).is_ok() {});
        let reads = Rc::new(Cell::new(0_u64));
        let reader = Task::spawn({
            let reads = Rc::clone(&reads);
            async move {
                loop {
                    read(&source, &mut [0]).await;
                    reads.set(reads.get() + 1);
                }
            }
        });
        let mut turns = 0;
        while reads.get() < 10_000 {
            yield_now().await;
            turns += 1;
        }
        assert!(turns > 10, "{turns}");
        drop(reader);
        // Its socket is closed at its next turn, and the flood fails.
        while !flood.is_finished() {
            yield_now().await;
        }
        flood.join().unwrap();
    });
}

#[test]
fn a_socket_is_given_to_another_task_which_is_woken_in_its_place() {
    on_loop(async {
        let (source, peer) = source();
        let noop = &mut Context::from_waker(Waker::noop());
        assert!(poll_read(&source, noop, &mut [0]).is_pending());
        later(move || (&peer).write_all(b"x").unwrap());
        assert_eq!(read(&source, &mut [0; 8]).await, 1);
    });
}

#[test]
fn clients_that_connect_are_accepted_whenever_they_come() {
    on_loop(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let door = Source::new(listener).unwrap();
        let clients = std::thread::spawn(move || {
            (0..20).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
        });
        for _ in 0..20 {
            poll_fn(|cx| {
                door.poll_transfer(Direction::Read, cx, |listener| {
                    listener.accept().map(|accepted| (accepted, More::MayFollow))
                })
            })
            .await
            .unwrap();
        }
        assert_eq!(clients.join().unwrap().len(), 20);
    });
}

#[test]
fn a_task_that_panics_ends_alone_and_who_waits_for_it_learns_that() {
    on_loop(async {
        let mut broken = Task::<()>::spawn(async { panic!("a test's") });
        let mut whole = Task::spawn(async {
            yield_now().await;
            1
        });
        assert_eq!(poll_fn(|cx| broken.poll(cx)).await, Err(JoinError));
        assert_eq!(poll_fn(|cx| whole.poll(cx)).await, Ok(1));
    });
}

#[test]
fn a_task_that_panics_when_it_is_dropped_ends_nobody_else() {
    struct PanicsAtItsEnd;
    impl Drop for PanicsAtItsEnd {
        fn drop(&mut self) {
            panic!("a test's");
        }
    }
    on_loop(async {
        let task = Task::<()>::spawn(async {
            let _end = PanicsAtItsEnd;
            pending().await
        });
        yield_now().await;
        drop(task);
        yield_now().await;
    });
}

#[test]
fn a_task_is_dropped_with_its_handle() {
    on_loop(async {
        let alive = Rc::new(());
        let held = Rc::clone(&alive);
        let task = Task::spawn(async move {
            let _held = held;
            pending::<()>().await;
        });
        yield_now().await;
        assert_eq!(Rc::strong_count(&alive), 2);
        drop(task);
        assert_eq!(Rc::strong_count(&alive), 1);
        // Its number is free, and the next task with it runs.
        yield_now().await;
        let mut next = Task::spawn(async { 3 });
        assert_eq!(poll_fn(|cx| next.poll(cx)).await, Ok(3));
    });
}

#[test]
fn a_task_that_drops_its_own_handle_ends_after_this_turn() {
    on_loop(async {
        let handle: Rc<Cell<Option<Task<()>>>> = Rc::default();
        let (alive, own) = (Rc::new(()), Rc::clone(&handle));
        let held = Rc::clone(&alive);
        handle.set(Some(Task::spawn(async move {
            let _held = held;
            drop(own.take());
            pending::<()>().await;
        })));
        while Rc::strong_count(&alive) > 1 {
            yield_now().await;
        }
    });
}

#[test]
fn a_group_counts_its_tasks_and_ends_them() {
    on_loop(async {
        let group = TaskGroup::default();
        group.emptied().await;
        (0..5).for_each(|_| group.spawn(pending()));
        group.spawn(async {});
        assert_eq!(group.len(), 6);
        yield_now().await;
        yield_now().await;
        assert_eq!(group.len(), 5);
        group.abort_all();
        group.emptied().await;
        assert!(group.is_empty());
    });
}

#[test]
fn what_is_left_is_dropped_with_the_loop_and_may_spawn_once_more() {
    struct SpawnsAtItsEnd(Rc<Cell<u32>>);
    impl Drop for SpawnsAtItsEnd {
        fn drop(&mut self) {
            let ended = Rc::clone(&self.0);
            ended.set(ended.get() + 1);
            if ended.get() < 3 {
                let again = SpawnsAtItsEnd(ended);
                spawn(async move {
                    let _again = again;
                    pending::<()>().await;
                });
            }
        }
    }
    let ended = Rc::new(Cell::new(0));
    let first = SpawnsAtItsEnd(Rc::clone(&ended));
    on_loop(async move {
        spawn(async move {
            let _first = first;
            pending::<()>().await;
        });
        yield_now().await;
    });
    assert_eq!(ended.get(), 3);
    assert!(!is_here());
}

#[test]
fn a_socket_of_another_thread_transfers_nothing_and_may_be_dropped() {
    on_loop(async {
        let (source, mut peer) = source();
        let (kept, _other) = self::source();
        let error = std::thread::spawn(move || {
            let cx = &mut Context::from_waker(Waker::noop());
            let Poll::Ready(Err(error)) = poll_read(&source, cx, &mut [0]) else { panic!("it waits") };
            error
        });
        assert_eq!(error.join().unwrap().kind(), io::ErrorKind::Other);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "it is closed");
        assert!(!kept.is_ready(Direction::Read));
    });
}

#[test]
fn a_thread_runs_one_loop_at_a_time() {
    let inner = on_loop(async { run(async {}, || ()) });
    assert!(inner.is_err());
    on_loop(async {});
}

#[test]
fn whoever_waits_is_told_when_the_loop_has_woken() {
    let wakes = Cell::new(0);
    let (tell, hear) = tokio::sync::oneshot::channel();
    later(move || tell.send(()).unwrap());
    run(hear, || wakes.set(wakes.get() + 1)).unwrap().unwrap();
    assert!(wakes.get() > 0);
}
