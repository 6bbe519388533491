//! Server-sent events: the page's state whenever it changes.
//!
//! A stream looks at once when MAS is asked or answers or a button did something, and else once a second, for what other
//! clients do at the edge. It ends with its connection: [`Events`] tells when that is dropped. A connection whose other side
//! vanished without a word is found out by the sign of life that is sent every few seconds.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{
    BodyExt,
    channel::{Channel, Sender},
};
use hyper::body::{Body, Frame};
use tokio::sync::oneshot;

use super::{Answer, Pressed, Shared, json, snapshot};

/// How many streams there may be at once.
pub(super) const MOST_WATCHERS: usize = 16;

/// How often what changes by itself is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The same while requests are under way.
const LOOK_CLOSELY: Duration = Duration::from_millis(200);
/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// After how many looks without a change a sign of life is sent.
const QUIET_LOOKS: u32 = 5;

pub(super) fn open(shared: Arc<Shared>) -> Answer {
    let Ok(permit) = Arc::clone(&shared.watchers).try_acquire_owned() else {
        let error = "too many pages are open".to_owned();
        return json(StatusCode::SERVICE_UNAVAILABLE, &Pressed::failed(error));
    };
    let (sender, events) = Channel::new(1);
    let (stays, left) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            () = run(&shared, sender) => {}
            // The other half is never used, only dropped.
            _ = left => {}
        }
        drop(permit);
    });
    let body = Events {
        events,
        _stays: stays,
    };
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    response
}

/// The body of a stream. It is dropped with its connection, and so is what ends the stream's task.
struct Events {
    events: Channel<Bytes>,
    _stays: oneshot::Sender<()>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.events).poll_frame(cx)
    }
}

/// Sends until the other side has left.
async fn run(shared: &Shared, mut sender: Sender<Bytes>) {
    let mut changes = shared.stack.observer.changes();
    let mut shown = None;
    let mut quiet = 0;
    loop {
        changes.mark_unchanged();
        let calls = shared.stack.mas.total_calls();
        let snapshot = snapshot::take(shared).await;
        let text = snapshot.content();
        let is_busy = snapshot.is_busy();
        if shown.as_ref() != Some(&text) {
            // JSON has no line breaks unless it is made to.
            let event = serde_json::to_string(&snapshot).unwrap_or_default();
            if sender
                .send_data(format!("data: {event}\n\n").into())
                .await
                .is_err()
            {
                return;
            }
            (shown, quiet) = (Some(text), 0);
        } else {
            quiet += 1;
            if quiet >= QUIET_LOOKS {
                quiet = 0;
                if sender
                    .send_data(Bytes::from_static(b": nothing new\n\n"))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            // The observer lives in `shared`, so waiting cannot fail.
            _ = changes.changed() => {}
            () = shared.stack.mas.wait_for_calls(calls + 1) => {}
            () = tokio::time::sleep(if is_busy { LOOK_CLOSELY } else { LOOK }) => {}
        }
    }
}
