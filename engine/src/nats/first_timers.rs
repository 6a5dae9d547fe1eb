//! Which keys of a partition have timers, as the stream behind the bucket has it: asked for once when a partition starts.
//!
//! The names come from the server, each value from the leader: a follower may not know yet what the former owner wrote last.

use futures_util::TryStreamExt;
use keyloom_actors::{
    checkpoint::record,
    key::Key,
    partition::timer_index::Earliest,
    ports::{RecordKey, StoreError},
    timestamp::Timestamp,
};

use super::{
    connect::chain,
    store::{GETS_IN_FLIGHT, NatsStore},
};

impl NatsStore {
    /// See the port.
    pub(super) async fn list_first_timers(
        &self,
        partition: u32,
        max: usize,
    ) -> Result<Vec<(Timestamp, Key)>, StoreError> {
        let filter = RecordKey::timers_filter(&self.inner.bucket, partition);
        let names = self.inner.handle.info_builder().subjects(filter).fetch().await;
        let names = names.map_err(|error| self.unavailable(&chain(&error)))?;
        let names = names.map_err(|error| self.unavailable(&chain(&error)));
        let reads = names.map_ok(|(name, _)| async move {
            let key = name.rsplit('.').next().and_then(Key::from_subject_token);
            let Some(key) = key else { return Ok(None) }; // not one of ours
            let value = self.get_one(RecordKey::Timer(partition, key.clone()), false).await?;
            Ok(value.map(|value| (key, value)))
        });
        let mut reads = std::pin::pin!(reads.try_buffer_unordered(GETS_IN_FLIGHT));
        let mut earliest = Earliest::new(max);
        while let Some(found) = reads.try_next().await? {
            let Some((key, value)) = found else { continue }; // removed: what is left is a marker
            let due = record::decode_first_timer(&value).map_err(|error| StoreError::Corrupt(error.to_string()))?;
            earliest.push(due, key);
        }
        Ok(earliest.done())
    }
}
