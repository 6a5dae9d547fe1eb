//! Reads messages of gRPC, after a look at how much they would become: a field that is two bytes on the wire is a structure
//! of more than a hundred in memory, so a message of nothing but empty events is refused before it is decoded.

use std::marker::PhantomData;

use bytes::Buf as _;
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Most fields at the top of a message: events of a request, keys and names of a question.
pub const FIELDS_MAX: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub struct CountedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for CountedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for CountedCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = CountedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

/// See the module.
#[derive(Debug)]
pub struct CountedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for CountedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        counted(message.chunk())?;
        self.0.decode(message)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Reads a message that came outside of tonic's own reading.
pub(super) fn decode<U: Message + Default>(message: &[u8]) -> Result<U, Status> {
    counted(message)?;
    U::decode(message).map_err(|error| Status::internal(error.to_string())) // as tonic says it
}

fn counted(message: &[u8]) -> Result<(), Status> {
    if fields(message) <= FIELDS_MAX {
        return Ok(());
    }
    let text = format!("the message has more than {FIELDS_MAX} fields; nothing was stored; send fewer at once");
    Err(Status::invalid_argument(text))
}

/// How many fields are at the top of `message`, up to the first that makes no sense: the decoder refuses it there.
fn fields(mut message: &[u8]) -> usize {
    let mut count = 0;
    while let Some(tag) = varint(&mut message) {
        let length = match tag & 7 {
            0 => varint(&mut message).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut message),
            5 => Some(4),
            _ => None,
        };
        let Some(rest) = length.and_then(|length| message.get(usize::try_from(length).ok()?..)) else { break };
        message = rest;
        count += 1;
    }
    count
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grpc::proto::{Event, SendRequest};

    proptest! {
        #[test]
        fn events_are_counted_as_they_would_be_decoded(ids in proptest::collection::vec("[a-z]{0,200}", 0..40)) {
            let event = |id: &String| Event { event_id: id.clone(), ..Event::default() };
            let request = SendRequest { events: ids.iter().map(event).collect() };
            prop_assert_eq!(fields(&request.encode_to_vec()), ids.len());
        }

        #[test]
        fn any_bytes_are_counted(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(fields(&bytes) <= bytes.len());
        }
    }
}
