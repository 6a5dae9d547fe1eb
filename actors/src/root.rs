//! The root actor: the fixed top of the tree. Supervises the partitions and ends the engine when one is lost for good.

use std::time::Duration;

use futures_util::future::join_all;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{mpsc, oneshot};

use crate::{
    failure::classify,
    observe,
    partition::{Partition, PartitionMsg, PartitionPlan, status::Trouble},
};

/// A running tree, for whoever is no actor.
pub struct RootHandle(ActorRef<RootMsg>);

impl RootHandle {
    /// Starts root and everything below it.
    pub async fn start(arguments: RootArguments) -> Result<Self, String> {
        let started = Actor::spawn(None, Root, arguments).await;
        started.map(|(root, _)| Self(root)).map_err(|error| error.to_string())
    }

    /// Stops pulling, publishes, checkpoints and writes tables, in every partition that runs; false when one did not run, or
    /// `limit` passed first. Nothing is lost then: the next start goes on from the last checkpoint.
    pub async fn drain(&self, limit: Duration) -> bool {
        let (reply, drained) = oneshot::channel();
        let asked = self.0.cast(RootMsg::Drain(reply)).is_ok();
        asked && matches!(tokio::time::timeout(limit, drained).await, Ok(Ok(true)))
    }
}

/// The actor.
pub struct Root;

/// What root is made of.
pub struct RootArguments {
    /// The partitions to run.
    pub partitions: Vec<PartitionPlan>,
    /// Told when a partition is lost for good, with the reason.
    pub lost: mpsc::UnboundedSender<String>,
}

/// What root is told.
pub enum RootMsg {
    /// Drain all partitions, then answer whether each of them was drained.
    Drain(oneshot::Sender<bool>),
}

/// The state.
pub struct RootState {
    partitions: Vec<(ActorRef<PartitionMsg>, PartitionPlan)>,
    lost: mpsc::UnboundedSender<String>,
}

impl Actor for Root {
    type Msg = RootMsg;
    type State = RootState;
    type Arguments = RootArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<RootMsg>,
        arguments: RootArguments,
    ) -> Result<RootState, ActorProcessingErr> {
        let mut partitions = Vec::new();
        for plan in arguments.partitions {
            let (partition, _) = Actor::spawn_linked(None, Partition, plan.clone(), myself.get_cell()).await?;
            partitions.push((partition, plan));
        }
        Ok(RootState { partitions, lost: arguments.lost })
    }

    async fn handle(
        &self,
        _: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        let RootMsg::Drain(reply) = message;
        let ask = |(actor, plan): &(ActorRef<PartitionMsg>, PartitionPlan)| {
            let (ask, drained) = oneshot::channel();
            drop(actor.cast(PartitionMsg::Drain(ask))); // the question of one that is gone goes with it, which is its answer
            let partition = plan.partition;
            async move { drained.await.is_err().then_some(partition) }
        };
        // All of them: one that cannot be drained must not keep the others from it.
        let waits = join_all(state.partitions.iter().map(ask).collect::<Vec<_>>());
        tokio::spawn(async move {
            let left: Vec<u32> = waits.await.into_iter().flatten().collect();
            if !left.is_empty() {
                tracing::warn!(partitions = ?left, "these partitions did not run, or failed, and were not drained");
            }
            reply.send(left.is_empty()).ok(); // whoever asked may have stopped waiting
        });
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisionEvent::ActorFailed(cell, error) = event else { return Ok(()) };
        let Some(at) = state.partitions.iter().position(|(p, _)| p.get_id() == cell.get_id()) else { return Ok(()) };
        let (cause, is_final) = classify(error.as_ref());
        let plan = state.partitions[at].1.clone();
        plan.status.set_trouble(Trouble::Start, Some(error.to_string()));
        plan.status.running.store(false, std::sync::atomic::Ordering::Relaxed);
        if is_final {
            tracing::error!(partition = plan.partition, %error, "a partition is lost for good");
            drop(state.lost.send(error.to_string())); // nobody listens only while the process ends
            return Ok(());
        }
        observe::restarted("partition", cause);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (partition, _) = Actor::spawn_linked(None, Partition, plan.clone(), myself.get_cell()).await?;
        state.partitions[at] = (partition, plan);
        Ok(())
    }
}
