//! A TCP port that leads to where it was last told to. Synapse learns at its start where MAS is, and an
//! Envoy with a listener for Synapse can only start after Synapse: this stands between the two. Led to a port where nobody
//! listens, it closes what connects, as before a server that restarts.

use std::net::SocketAddr;

use tokio::{
    io,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// A running switch. Dropping it closes the listener and every connection.
pub struct Switch {
    addr: SocketAddr,
    target: watch::Sender<SocketAddr>,
    /// Each connection has a receiver.
    open: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Switch {
    /// Listens on a free port, and leads to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (target, targets) = watch::channel(target);
        let open = watch::Sender::new(());
        let task = tokio::spawn(accept(listener, targets, open.clone()));
        Self {
            addr,
            target,
            open,
            task,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Leads to `target` from now on, and closes all connections.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Waits until no connection is open.
    pub async fn wait_until_unused(&self) {
        self.open.closed().await;
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    targets: watch::Receiver<SocketAddr>,
    open: watch::Sender<()>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (targets, is_open) = (targets.clone(), open.subscribe());
        connections.spawn(async move {
            let result = connect(client, targets).await;
            drop(is_open);
            result
        });
        // Those that have ended.
        while connections.try_join_next().is_some() {}
    }
}

/// Ends with either side, or with a new target.
async fn connect(
    mut client: TcpStream,
    mut targets: watch::Receiver<SocketAddr>,
) -> io::Result<()> {
    let target = *targets.borrow_and_update();
    let mut server = TcpStream::connect(target).await?;
    for stream in [&client, &server] {
        // Small requests must not wait for acknowledgements.
        stream.set_nodelay(true)?;
    }
    tokio::select! {
        _ = io::copy_bidirectional(&mut client, &mut server) => {}
        _ = targets.changed() => {}
    }
    Ok(())
}
