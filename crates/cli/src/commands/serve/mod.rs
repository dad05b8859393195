//! `hadal serve`: from arguments to a server that ends in order.

mod identity;
mod local;
mod log;
mod model;
mod router;

pub(crate) use local::Local;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use server::{Disk, Keys, Options, Server, Source};
use tensor::Ctx;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use super::Threads;
use crate::args::{MetricsCompat, MtpMode, Serve};
use crate::failure::{Unreachable, Usage};

/// Thirty years.
const MOST_SECONDS: f64 = 1e9;

/// What is looked at more often than this is looked at all the time.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// Threads that read and write HTTP; the engine has its own.
const IO_THREADS: usize = 2;

pub(crate) fn run(threads: Threads, args: &Serve) -> Result<ExitCode> {
    let limits = limits(args)?;
    if !args.router.is_empty() && threads.argument > 0 {
        return Err(
            Usage("--threads is for computing, and with --router nothing is computed; leave it out".into()).into()
        );
    }
    let keys = args.api_key_file.as_deref().map(Keys::read).transpose()?;
    if keys.is_none() && !args.host.is_loopback() && !args.allow_open {
        return Err(Usage(format!(
            "--host {} would let others use this server, and there are no keys: give it --api-key-file, or say --allow-open",
            args.host
        ))
        .into());
    }
    let _log = log::start(args.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .enable_all()
        .build()
        .context("starting the threads for HTTP")?;
    let outcome = if args.router.is_empty() {
        runtime.block_on(serve(&Ctx::new(threads.with(0))?, args, options(args)?, limits, keys))
    } else {
        runtime.block_on(router::serve(args, limits, keys))
    };
    // What still runs belongs to connections that were given up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(
    ctx: &Ctx,
    args: &Serve,
    options: Options,
    limits: listen::Limits,
    keys: Option<Keys>,
) -> Result<ExitCode> {
    // Before anything takes long: whoever ends the program while it loads ends it in order.
    let mut signals = Signals::new()?;
    let mut hangups = hangups()?;
    let (listener, address) = bind(args).await?;
    let name = options.names[0].clone();
    let compute = args.compute;
    let loader = Box::new(move |dir: &Path| model::load(dir, compute));
    let server = Server::start(options, keys, ctx.clone(), loader).context("starting the server")?;
    eprintln!("hadal serves {name:?} on http://{address} (loading)");
    let router = server.router();
    let shutdown = async {
        let ended = tokio::select! {
            () = signals.first() => None,
            failure = failure(&server, args.model_dir.is_some()) => Some(failure),
            () = async { while hangups.recv().await.is_some() { server.look() } } => None,
        };
        if ended.is_none() {
            server.leave();
            tracing::info!("asked to end; new requests are taken for {} s more", args.drain_delay);
            tokio::time::sleep(Duration::from_secs_f64(args.drain_delay)).await;
        }
        server.drain();
        ended
    };
    // The future that ends the listener also has to say why it ended.
    let (say, why) = tokio::sync::oneshot::channel();
    let serving = listen::serve(listener, router, limits, || server.turned_away(), async {
        say.send(shutdown.await).ok();
    });
    let all_ended = serving.await.context("accepting connections")?;
    let failure = why.await.ok().flatten();
    // Ends the engine: not a thing to wait for where others wait for their turn.
    tokio::task::block_in_place(|| drop(server));
    if let Some(error) = failure {
        return Err(anyhow::Error::msg(error));
    }
    if !all_ended {
        tracing::warn!("some requests had not ended after {} s and were given up", args.drain_timeout);
    }
    Ok(ExitCode::SUCCESS)
}

async fn bind(args: &Serve) -> Result<(TcpListener, SocketAddr)> {
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Unreachable(format!("listening on {address}: {error}; is the port taken? --port takes another one"))
    })?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Waits until the only model there is cannot be loaded. A directory of versions may get a better one.
async fn failure(server: &Server, is_watched: bool) -> String {
    let mut was_ready = is_watched;
    loop {
        if !was_ready && let Some(error) = server.failure() {
            return error.to_string();
        }
        if !was_ready && server.is_ready() {
            was_ready = true;
            eprintln!("ready");
        }
        tokio::time::sleep(Duration::from_millis(if was_ready { 60_000 } else { 50 })).await;
    }
}

/// SIGHUP, which ends a program that does not listen to it.
fn hangups() -> Result<Signal> {
    signal(SignalKind::hangup()).context("listening to signals")
}

/// What asks the program to end. Asked a second time, it ends at once.
struct Signals(watch::Receiver<u32>);

impl Signals {
    /// Listens from now on.
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening to signals");
        let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            for asked in 1.. {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if asked > 1 {
                    eprintln!("asked again to end; what is under way is given up");
                    std::process::exit(1);
                }
                // Whoever does not wait for it needs not to know.
                sender.send(asked).ok();
            }
        });
        Ok(Self(receiver))
    }

    /// Waits until it is asked to.
    async fn first(&mut self) {
        // The other end lives as long as the runtime.
        self.0.wait_for(|asked| *asked > 0).await.ok();
    }
}

fn options(args: &Serve) -> Result<Options> {
    let source = match (&args.model, &args.model_dir) {
        (Some(dir), _) => Source::Model(dir.clone()),
        (None, Some(dir)) => Source::Versions(dir.clone(), args.version_policy.clone()),
        (None, None) => return Err(Usage("there is no --model and no --model-dir".into()).into()),
    };
    let (Source::Model(dir) | Source::Versions(dir, _)) = &source;
    if !dir.is_dir() {
        return Err(Usage(format!("{} is no directory", dir.display())).into());
    }
    let names = if args.served_model_name.is_empty() { vec![name_of(dir)] } else { args.served_model_name.clone() };
    if let Some(name) = names.iter().find(|name| !is_name(name)) {
        return Err(
            Usage(format!("--served-model-name {name:?} has other characters than letters, digits and ._-/")).into()
        );
    }
    Ok(Options {
        source,
        names,
        accept_any_name: args.accept_any_model,
        max_model_len: args.max_model_len,
        engine: engine::Limits {
            max_batch_size: positive("--max-batch-size", args.max_batch_size)?,
            batch_timeout_micros: args.batch_timeout_micros,
            max_enqueued_batches: positive("--max-enqueued-batches", args.max_enqueued_batches)?,
            max_enqueued_tokens: positive("--max-enqueued-tokens", args.max_enqueued_tokens)?,
            prefill_tokens: positive("--prefill-tokens", args.prefill_tokens)?,
            cache_bytes: gibibytes("--kv-memory", args.kv_memory)?,
            mtp: match args.mtp {
                MtpMode::Auto => engine::Mtp::Auto,
                MtpMode::On => engine::Mtp::On,
                MtpMode::Off => engine::Mtp::Off,
            },
        },
        disk: match &args.kv_disk {
            Some(dir) => {
                let quota_bytes = gibibytes("--kv-disk-quota", args.kv_disk_quota)?;
                Some(Disk { dir: dir.clone(), quota_bytes })
            }
            None => None,
        },
        max_body_bytes: max_body_bytes(args)?,
        body_timeout: wait("--body-timeout", args.body_timeout)?,
        request_timeout: seconds("--request-timeout", args.request_timeout)?,
        max_requests: places("--max-requests", args.max_requests)?,
        step_timeout: seconds("--step-timeout", args.step_timeout)?,
        seed: args.seed,
        expert_metrics: args.expert_metrics,
        vllm_metrics: args.metrics_compat == MetricsCompat::Vllm,
        page: !args.no_ui,
        hosts: args.allow_host.clone(),
        cors_origins: args.cors_origin.clone(),
        poll_interval: pause("--poll-interval", args.poll_interval)?,
        load_timeout: wait("--load-timeout", args.load_timeout)?,
    })
}

fn limits(args: &Serve) -> Result<listen::Limits> {
    seconds("--drain-delay", args.drain_delay)?;
    Ok(listen::Limits {
        max_connections: places("--max-connections", args.max_connections)?,
        header_timeout: wait("--header-timeout", args.header_timeout)?,
        write_timeout: wait("--write-timeout", args.write_timeout)?,
        drain_timeout: seconds("--drain-timeout", args.drain_timeout)?,
        ..listen::Limits::default()
    })
}

/// The name of a directory, as far as it can be the name of a model.
fn name_of(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = dir.file_name().and_then(|name| name.to_str()).filter(|name| is_name(name));
    name.unwrap_or("hadal").to_owned()
}

fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/'))
}

fn positive(name: &str, value: usize) -> Result<usize> {
    if value == 0 { Err(Usage(format!("{name} is 0, but must be at least 1")).into()) } else { Ok(value) }
}

/// Things at the same time, each of which takes a permit of a semaphore.
fn places(name: &str, value: usize) -> Result<usize> {
    at_most(name, positive(name, value)?, Semaphore::MAX_PERMITS)
}

fn at_most(name: &str, value: usize, most: usize) -> Result<usize> {
    if value > most { Err(Usage(format!("{name} is {value}, but must be at most {most}")).into()) } else { Ok(value) }
}

/// Several bodies are held at a time, and their bytes counted together.
fn max_body_bytes(args: &Serve) -> Result<usize> {
    let most = (Semaphore::MAX_PERMITS / router::BODIES) >> 20;
    Ok(at_most("--max-body", positive("--max-body", args.max_body)?, most)? << 20)
}

fn seconds(name: &str, value: f64) -> Result<Duration> {
    // Clocks end somewhere, so a moment that is further away than anybody waits cannot be named.
    if (0.0..=MOST_SECONDS).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(Usage(format!("{name} is {value}, but must be a number of seconds from 0 to {MOST_SECONDS}")).into())
    }
}

/// Seconds between two times that something is done.
fn pause(name: &str, value: f64) -> Result<Duration> {
    let duration = seconds(name, value)?;
    if duration < LEAST_PAUSE {
        return Err(
            Usage(format!("{name} is {value}, but must be at least {} seconds", LEAST_PAUSE.as_secs_f64())).into()
        );
    }
    Ok(duration)
}

/// Seconds that somebody else has for something.
fn wait(name: &str, value: f64) -> Result<Duration> {
    let duration = seconds(name, value)?;
    if duration.is_zero() {
        return Err(Usage(format!("{name} is {value}, so that nobody could be in time; give it more than 0")).into());
    }
    Ok(duration)
}

fn gibibytes(name: &str, value: f64) -> Result<u64> {
    if value.is_finite() && value > 0.0 {
        Ok((value * f64::from(1 << 30)) as u64)
    } else {
        Err(Usage(format!("{name} is {value}, but must be a number of GiB above 0")).into())
    }
}
