//! The cores: one thread and one runtime each.

use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rustix::process::setpriority_process;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use super::balance::Balance;
use super::pace::Pace;
use crate::admin::{Control, console};
use crate::base::clock;
use crate::pool::{Poke, Shard};
use crate::session::{self, Accepted, Command, Core, CoreHandle, Kick, Outcome, Place, Shared};

/// How often a core looks at clocks: waits for a backend, expired tokens, idle transactions, stale
/// backends, counters.
const TICK: Duration = Duration::from_millis(250);

/// How far back, in Linux' scale of 0 to 19: beside one thread that would fill a CPU, a quarter of it.
const NICE: i32 = 5;

/// How long sessions and recoveries that are under way at the end may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

type Threads = Vec<std::thread::JoinHandle<()>>;

/// Filled once the proxy stands; consoles need it, cores come first.
pub(super) type ControlCell = Arc<OnceLock<Control>>;

pub(super) fn start(
    shared: &Arc<Shared>,
    count: usize,
    control: &ControlCell,
) -> std::io::Result<(Arc<[CoreHandle]>, Threads)> {
    let (mailboxes, letters): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel::<Poke>()).unzip();
    let mut handles = Vec::new();
    let mut threads = Vec::new();
    for (index, pokes) in letters.into_iter().enumerate() {
        let (sender, commands) = mpsc::unbounded_channel();
        handles.push(CoreHandle::new(sender));
        let (shared, mailboxes, control) = (Arc::clone(shared), mailboxes.clone(), Arc::clone(control));
        let thread = std::thread::Builder::new().name(format!("core-{index}"));
        threads.push(thread.spawn(move || {
            let shard = Shard::new(index, mailboxes);
            if let Err(error) = core(index, shared, shard, pokes, commands, control) {
                tracing::error!(core = index, %error, "a core could not start");
            }
        })?);
    }
    Ok((handles.into(), threads))
}

fn core(
    index: usize,
    shared: Arc<Shared>,
    shard: Shard,
    pokes: mpsc::UnboundedReceiver<Poke>,
    commands: mpsc::UnboundedReceiver<Command>,
    control: ControlCell,
) -> std::io::Result<()> {
    let runtime =
        Builder::new_current_thread().enable_all().on_thread_start(stand_back).build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let core = Rc::new(Core::new(shared, shard));
        tokio::task::spawn_local(answer_pokes(Rc::clone(&core), pokes));
        tokio::task::spawn_local(tick(index, Rc::clone(&core), Arc::clone(&control)));
        obey(core, commands, control).await;
    });
    runtime.shutdown_timeout(LAST_WORDS);
    Ok(())
}

/// A thread that does what would block, which is to check signatures, mostly: those who have work under way come first
/// where there are too few CPUs.
fn stand_back() {
    // Linux takes it for the thread that asks, not the process. It may always be had less.
    let _ = setpriority_process(None, NICE);
}

async fn answer_pokes(core: Rc<Core>, mut pokes: mpsc::UnboundedReceiver<Poke>) {
    while let Some(Poke(budget)) = pokes.recv().await {
        core.shard.balance(&budget);
    }
}

async fn tick(index: usize, core: Rc<Core>, control: ControlCell) {
    let (mut balance, mut pace) = (Balance::default(), Pace::default());
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let worked = core.take_worked();
        if let Some(control) = control.get() {
            pace.look(&core, worked, index, &control.cores);
            balance.look(&core, index, &control.cores);
        }
        core.tidy(Instant::now(), clock::unix_now());
    }
}

/// Stays with a client until it is gone, or goes on elsewhere. `places` are its places in the process and on the core.
fn attend(served: impl Future<Output = Outcome>, places: [Place; 2], control: ControlCell) -> impl Future<Output = ()> {
    // No async function, which would keep what it serves twice: as its argument, and where it awaits it.
    served.then(move |outcome| part(outcome, places, control))
}

async fn part(outcome: Outcome, places: [Place; 2], control: ControlCell) {
    let Some(control) = control.get() else { return };
    match outcome {
        Outcome::Over => {}
        Outcome::Drains(node) => control.drain_of(node),
        Outcome::Console(admin) => Box::pin(console::serve(*admin, control.clone())).await,
        Outcome::Leaves(to, parcel) => {
            let Some(core) = control.cores.get(to) else { return };
            let [place, _] = places;
            let (on_core, _) = Place::take(&core.clients);
            core.send(Command::Arrive { parcel, places: [place, on_core] });
        }
    }
}

async fn obey(core: Rc<Core>, mut commands: mpsc::UnboundedReceiver<Command>, control: ControlCell) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Serve { tcp, peer, door, crowded, places, login } => {
                let Ok(tcp) = TcpStream::from_std(tcp) else { continue };
                let served = session::run(Rc::clone(&core), Accepted { tcp, peer: Some(peer), door }, crowded, login);
                tokio::task::spawn_local(attend(served, places, Arc::clone(&control)));
            }
            Command::Arrive { parcel, places } => {
                let served = session::arrive(Rc::clone(&core), *parcel);
                tokio::task::spawn_local(attend(served, places, Arc::clone(&control)));
            }
            // Who asked may have gone meanwhile.
            Command::Clients(reply) => drop(reply.send(core.rows(Instant::now()))),
            Command::Idle(reply) => {
                let idle = core.shard.idle().into_iter().map(|(pool, count)| (pool.id(), count)).collect();
                drop(reply.send(idle));
            }
            Command::Backends(reply) => drop(reply.send(core.backends(Instant::now()))),
            Command::Flush(reply) => {
                core.flush();
                let _ = reply.send(());
            }
            Command::Recheck => core.recheck(Instant::now()),
            Command::Kick(kick) => {
                if matches!(kick, Kick::Drain | Kick::Stop) {
                    core.draining.set(true);
                }
                core.kick_all(kick);
            }
            Command::KickOf(parties, kick) => core.kick_of(&parties, kick),
            Command::DrainOf(node) => core.drain_of(&node),
            Command::End => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand clients that do nothing are as many of these.
    #[test]
    fn whoever_is_served_was_kept_twice() {
        let served = async {
            let kept = [0u8; 128];
            tokio::task::yield_now().await;
            std::hint::black_box(&kept);
            Outcome::Over
        };
        let alone = size_of_val(&served);
        let clients = Arc::default();
        let places = [Place::take(&clients).0, Place::take(&clients).0];
        let attended = size_of_val(&attend(served, places, ControlCell::default()));
        assert!(attended <= alone + 64, "{attended} bytes for {alone}");
    }
}
