//! Messages on their way in: each takes room at a gate before it is kept, has a limited time to arrive, and is unpacked
//! within the limits. Between the messages of a stream a client may take as long as it likes.
//!
//! Not left to tonic, which reserves the announced length of a message when it has seen five bytes of it, unpacks without asking
//! anybody, waits for ever, and keeps the memory of a stream's largest message for as long as the stream lives. So tonic
//! gets the message of a call only when all of it is there ([`whole`]), and nothing of a stream, whose messages the call
//! asks for one by one ([`each`]). Not here: where messages begin and end, see [`super::frame`].

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::frame::{Cutter, Framed, PREFIX_BYTES, Wrong};
use crate::front_door::{
    decode::{self, DecodeError, Encoding},
    gate::{Gate, Hold},
};

/// Where the head of a call says how its messages are packed.
const ENCODING: &str = "grpc-encoding";

/// Why a message did not come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Missed {
    /// There is no room for it now.
    NoRoom,
    /// It took longer than it may.
    Slow,
    /// It is larger than is allowed, packed or unpacked.
    TooLarge,
    /// It is damaged, or cut off.
    Damaged(String),
    /// It is not gRPC.
    Protocol(String),
}

/// The limits of a service's messages, and its words when one is beyond them.
pub(super) struct Intake {
    /// Where messages take room.
    pub(super) gate: Gate,
    /// Largest message, packed or unpacked.
    pub(super) bytes_max: usize,
    /// Longest time that a message may take to arrive.
    pub(super) timeout: Duration,
    /// Counts a call that ends with such a message, after so long, and says what its client is told.
    pub(super) refused: fn(&Intake, Missed, Duration) -> Status,
}

/// A message, and its room: to be held until what becomes of it is answered.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) bytes: Bytes,
    pub(super) hold: Hold,
}

/// The messages of one call.
pub(super) struct Messages {
    intake: Arc<Intake>,
    /// Messages may be packed, with gzip.
    is_packed: bool,
    body: Body,
    /// What came behind the last message.
    pending: Bytes,
    cutter: Cutter,
    /// Room for what is pending and in the cutter.
    hold: Hold,
    /// Since when somebody waits for the rest of a message that has begun.
    began: Option<Instant>,
}

/// The messages of a stream, in the extensions of its request: for whoever asks first.
#[derive(Clone)]
pub(super) struct Waiting(Arc<Mutex<Option<Messages>>>);

impl Waiting {
    pub(super) fn take(&self) -> Option<Messages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// For calls of one message: it arrives before the call begins, and keeps its room until the call is answered.
pub(super) async fn whole(State(intake): State<Arc<Intake>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (mut head, body) = request.into_parts();
    if is_unknown(&head.headers) {
        return next.run(Request::from_parts(head, Body::empty())).await; // where it is refused, with what is known
    }
    let arrived = match Messages::new(&intake, &head.headers, body) {
        Ok(messages) => messages.only().await,
        Err(missed) => Err(missed),
    };
    let (body, _hold) = match arrived {
        Ok(Some(Arrived { bytes, hold })) => (as_body(bytes), Some(hold)),
        Ok(None) => (Body::empty(), None),
        Err(missed) => return (intake.refused)(&intake, missed, began.elapsed()).into_http(),
    };
    head.headers.remove(header::CONTENT_LENGTH); // it was that of the body as it came
    next.run(Request::from_parts(head, body)).await
}

/// For streams: their calls find [`Waiting`] in the extensions of the request.
pub(super) async fn each(State(intake): State<Arc<Intake>>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    if !is_unknown(&head.headers) {
        match Messages::new(&intake, &head.headers, body) {
            Ok(messages) => {
                head.extensions.insert(Waiting(Arc::new(Mutex::new(Some(messages)))));
            }
            Err(missed) => return (intake.refused)(&intake, missed, Duration::ZERO).into_http(),
        }
    }
    next.run(Request::from_parts(head, Body::empty())).await
}

/// Whether messages are packed in a way that nobody here knows.
fn is_unknown(headers: &HeaderMap) -> bool {
    headers.get(ENCODING).is_some_and(|name| name != "gzip" && name != "identity")
}

/// A message as tonic wants it: not packed, behind its prefix.
fn as_body(message: Bytes) -> Body {
    let mut prefix = [0; PREFIX_BYTES];
    prefix[1..].copy_from_slice(&(message.len() as u32).to_be_bytes()); // not longer than the limit, which is far below
    let pieces = [Bytes::copy_from_slice(&prefix), message];
    Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)))
}

impl Messages {
    fn new(intake: &Arc<Intake>, headers: &HeaderMap, body: Body) -> Result<Self, Missed> {
        Ok(Self {
            is_packed: headers.get(ENCODING).is_some_and(|name| name == "gzip"),
            body,
            pending: Bytes::new(),
            cutter: Cutter::new(intake.bytes_max),
            hold: intake.gate.enter(0).map_err(|_| Missed::NoRoom)?,
            began: None,
            intake: Arc::clone(intake),
        })
    }

    /// Counts a call that ends because a message did not come in, and says what its client is told.
    pub(super) fn refused(&self, missed: Missed) -> Status {
        (self.intake.refused)(&self.intake, missed, self.began.map(|began| began.elapsed()).unwrap_or_default())
    }

    /// The next message; none behind the last. Its time counts from when its first byte is here and somebody waits for the rest.
    pub(super) async fn next(&mut self) -> Result<Option<Arrived>, Missed> {
        match self.cut().await? {
            Some(framed) => self.unpacked(framed).await.map(Some),
            None => Ok(None),
        }
    }

    /// The only message of a call. The time counts from the call's beginning to its end.
    async fn only(mut self) -> Result<Option<Arrived>, Missed> {
        let limit = self.intake.timeout;
        let arriving = async {
            let framed = self.cut().await?;
            let is_alone = self.pending.is_empty() && self.piece().await?.is_none();
            if is_alone { Ok(framed) } else { Err(Missed::Protocol("the call takes one message".to_owned())) }
        };
        let framed = timeout(limit, arriving).await.map_err(|_| Missed::Slow)??;
        match framed {
            Some(framed) => self.unpacked(framed).await.map(Some),
            None => Ok(None),
        }
    }

    async fn cut(&mut self) -> Result<Option<Framed>, Missed> {
        loop {
            let cut = self.cutter.take(&mut self.pending).map_err(|wrong| match wrong {
                Wrong::TooLarge => Missed::TooLarge,
                Wrong::Flag(flag) => Missed::Protocol(format!("a message begins with the byte {flag}")),
            })?;
            if cut.is_some() {
                self.began = None;
                return Ok(cut);
            }
            let piece = if self.cutter.is_empty() {
                self.piece().await?
            } else {
                let until = *self.began.get_or_insert_with(Instant::now) + self.intake.timeout;
                timeout_at(until, self.piece()).await.map_err(|_| Missed::Slow)??
            };
            match piece {
                Some(piece) => self.pending = piece,
                None if self.cutter.is_empty() => return Ok(None),
                None => return Err(Missed::Damaged("the call ended in the middle of a message".to_owned())),
            }
        }
    }

    /// The next bytes, for which there is room; none at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Missed> {
        while let Some(frame) = self.body.frame().await {
            let broken = |_| Missed::Damaged("the connection broke in the middle of a call".to_owned());
            match frame.map_err(broken)?.into_data() {
                Ok(data) if !data.is_empty() => {
                    self.hold.grow(data.len()).map_err(|_| Missed::NoRoom)?;
                    return Ok(Some(data));
                }
                _ => {} // trailers, of which clients have none
            }
        }
        Ok(None)
    }

    /// The message as it was before it was packed, with room of its own.
    async fn unpacked(&mut self, framed: Framed) -> Result<Arrived, Missed> {
        let Framed { is_packed, bytes } = framed;
        drop(self.hold.split(PREFIX_BYTES));
        let mut hold = self.hold.split(bytes.len());
        if !is_packed {
            return Ok(Arrived { bytes, hold });
        }
        if !self.is_packed {
            return Err(Missed::Protocol(format!("a message is packed, and {ENCODING} does not say how")));
        }
        let bytes_max = self.intake.bytes_max;
        // How long it takes is the sender's choice.
        let work = tokio::task::spawn_blocking(move || {
            let unpacked = decode::decode(Encoding::Gzip, &bytes, bytes_max, &mut |more| hold.grow(more).is_ok());
            hold.shrink(bytes.len());
            Ok(Arrived { bytes: unpacked.map_err(|error| damaged(&error))?.into(), hold })
        });
        work.await.map_err(|error| Missed::Damaged(error.to_string()))?
    }
}

fn damaged(error: &DecodeError) -> Missed {
    match error {
        DecodeError::TooLarge => Missed::TooLarge,
        DecodeError::NoRoom => Missed::NoRoom,
        DecodeError::Damaged(..) => Missed::Damaged(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::front_door::decode::encode;

    const LIMIT: Duration = Duration::from_secs(30);

    fn intake(room: usize) -> Arc<Intake> {
        let refused = |_: &Intake, missed, _| Status::unknown(format!("{missed:?}"));
        Arc::new(Intake { gate: Gate::telling(room, |_| {}), bytes_max: 1_000, timeout: LIMIT, refused })
    }

    /// A call whose pieces come when the test says so.
    fn call(intake: &Arc<Intake>, encoding: &'static str) -> (mpsc::UnboundedSender<Vec<u8>>, Messages) {
        let (pieces, arriving) = mpsc::unbounded_channel();
        let arriving = stream::unfold(arriving, |mut arriving| async {
            arriving.recv().await.map(|piece: Vec<u8>| (Ok::<_, Infallible>(piece), arriving))
        });
        let headers = HeaderMap::from_iter([(
            header::HeaderName::from_static(ENCODING),
            header::HeaderValue::from_static(encoding),
        )]);
        (pieces, Messages::new(intake, &headers, Body::from_stream(arriving)).expect("nothing takes no room"))
    }

    fn message(flag: u8, bytes: &[u8]) -> Vec<u8> {
        [&[flag][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    async fn missed(messages: &mut Messages) -> Missed {
        messages.next().await.map(drop).expect_err("not taken")
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_has_its_time_from_its_first_byte_on_and_a_pause_has_none() {
        let intake = intake(10_000);
        let (pieces, mut messages) = call(&intake, "identity");
        assert!(timeout(100 * LIMIT, messages.next()).await.is_err(), "it waits");
        pieces.send([message(0, b"one"), vec![0]].concat()).expect("open");
        let first = messages.next().await.expect("good").expect("whole");
        assert_eq!((&first.bytes[..], intake.gate.in_flight()), (&b"one"[..], 4), "and the first byte of the next");
        drop(first);
        // Begun when somebody waits, over when all of it was to be there, however often a byte comes.
        tokio::time::advance(2 * LIMIT).await;
        let began = Instant::now();
        let dripping = tokio::spawn(async move {
            pieces.send(vec![0, 0, 1, 0]).ok();
            while pieces.send(vec![7]).is_ok() {
                tokio::time::sleep(LIMIT / 10).await;
            }
        });
        assert_eq!(missed(&mut messages).await, Missed::Slow);
        assert_eq!(began.elapsed().as_secs(), LIMIT.as_secs());
        drop(messages);
        assert_eq!(intake.gate.in_flight(), 0);
        dripping.await.expect("it ends when nobody listens");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_one_message_has_its_time_from_the_beginning_to_the_end() {
        let intake = intake(10_000);
        for sent in [Vec::new(), message(0, b"whole"), vec![0, 0]] {
            let (pieces, messages) = call(&intake, "identity");
            pieces.send(sent).expect("open");
            assert_eq!(messages.only().await.map(drop), Err(Missed::Slow), "its end does not come");
        }
        let (pieces, messages) = call(&intake, "identity");
        pieces.send(message(0, b"whole")).expect("open");
        drop(pieces);
        let arrived = messages.only().await.expect("good").expect("one");
        assert_eq!((&arrived.bytes[..], intake.gate.in_flight()), (&b"whole"[..], 5));
        let (pieces, messages) = call(&intake, "identity");
        pieces.send([message(0, b"one"), message(0, b"two")].concat()).expect("open");
        assert!(matches!(messages.only().await, Err(Missed::Protocol(_))));
    }

    #[tokio::test]
    async fn bytes_take_room_while_they_arrive_and_each_message_gives_back_its_own() {
        let intake = intake(100);
        let (pieces, mut half) = call(&intake, "identity");
        pieces.send([&message(0, &[1; 90])[..60], &[]].concat()).expect("open");
        assert!(timeout(Duration::from_millis(1), half.next()).await.is_err(), "it is not whole");
        assert_eq!(intake.gate.in_flight(), 60, "what came, not what was announced");
        let (others, mut other) = call(&intake, "identity");
        others.send([message(0, b"fits"), message(0, &[2; 50])].concat()).expect("open");
        assert_eq!(missed(&mut other).await, Missed::NoRoom);
        drop(other);
        let (others, mut other) = call(&intake, "identity");
        others.send([message(0, b"one"), message(0, b"four")].concat()).expect("open");
        let one = other.next().await.expect("good").expect("whole");
        assert_eq!(intake.gate.in_flight(), 60 + 3 + 9);
        let four = other.next().await.expect("good").expect("whole");
        drop(one);
        assert_eq!(intake.gate.in_flight(), 60 + 4);
        drop((four, half));
        assert_eq!(intake.gate.in_flight(), 0, "a call that is gone holds nothing");
        drop(others);
        assert!(other.next().await.expect("good").is_none());
    }

    #[tokio::test]
    async fn packed_messages_take_room_for_what_they_become() {
        let intake = intake(700);
        for (message_of, expected) in [(500, Ok(500)), (690, Err(Missed::NoRoom)), (1_100, Err(Missed::TooLarge))] {
            let (pieces, mut messages) = call(&intake, "gzip");
            let packed = encode(Encoding::Gzip, &vec![b' '; message_of]);
            pieces.send(message(1, &packed)).expect("open");
            let arrived = messages.next().await.map(|arrived| arrived.expect("whole").bytes.len());
            assert_eq!(arrived, expected, "{message_of}");
        }
        assert_eq!(intake.gate.in_flight(), 0);
        let (pieces, mut messages) = call(&intake, "gzip");
        pieces.send([message(1, &encode(Encoding::Gzip, &[b' '; 400])), message(0, b"plain")].concat()).expect("open");
        let first = messages.next().await.expect("good").expect("whole");
        assert_eq!(
            (first.bytes.len(), intake.gate.in_flight()),
            (400, 400 + PREFIX_BYTES + 5),
            "unpacked, and the next one"
        );
        assert_eq!(&messages.next().await.expect("good").expect("whole").bytes[..], b"plain");
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_call() {
        let intake = intake(10_000);
        for (encoding, sent, expected) in [
            ("identity", message(0, &[0; 1_001]), Missed::TooLarge),
            ("gzip", message(1, b"no gzip"), Missed::Damaged(String::new())),
            ("identity", vec![0, 0, 0, 0, 9, 1], Missed::Damaged(String::new())),
            ("identity", message(1, b"x"), Missed::Protocol(String::new())),
            ("identity", message(2, b"x"), Missed::Protocol(String::new())),
        ] {
            let (pieces, mut messages) = call(&intake, encoding);
            pieces.send(sent).expect("open");
            drop(pieces);
            let missed = missed(&mut messages).await;
            assert_eq!(std::mem::discriminant(&missed), std::mem::discriminant(&expected), "{missed:?}");
        }
        assert_eq!(intake.gate.in_flight(), 0);
    }
}
