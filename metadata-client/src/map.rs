//! Calls about maps and reservations.

use lunar_proto::domain::{
    CommitMap, LayerPage, Page, PageRequest, PageToken, PoolReservation, PruneLayer, PrunedParts,
    ReadLayer, ReleaseExtents, ReserveExtents,
};
use lunar_proto::v1;
use lunar_proto::v1::map_client::MapClient;
use lunar_proto::v1::reservations_client::ReservationsClient;
use lunar_proto::wire;
use lunar_types::{ExtentRun, Freed, NodeIncarnation};

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient, every};

impl MetadataClient {
    /// Changes slots of the head layer of an attached volume: all of the updates or none. Says
    /// what becomes of the extents that are unmapped.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn commit_map(&self, request: &CommitMap) -> Result<Freed, ClientError> {
        let request = v1::CommitMapRequest::from(request.clone());
        let answer = self.call_raw("commit the map", request, async |channel, request| {
            on_channel!(MapClient, channel).commit_map(request).await
        });
        answer.await.map(Freed::from)
    }

    /// Own slots and parts of a layer in order of their logical extent.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn read_layer(&self, request: ReadLayer) -> Result<LayerPage, ClientError> {
        let request = v1::ReadLayerRequest::from(request);
        self.call("read the layer", request, async |channel, request| {
            on_channel!(MapClient, channel).read_layer(request).await
        })
        .await
    }

    /// Takes parts out of a window of the head that its committed slots hide; their extents go
    /// into the caller's reservation. The answer says where to go on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn prune_layer(&self, request: PruneLayer) -> Result<PrunedParts, ClientError> {
        let request = v1::PruneLayerRequest::from(request);
        self.call("prune the layer", request, async |channel, request| {
            on_channel!(MapClient, channel).prune_layer(request).await
        })
        .await
    }

    /// Takes free extents of a pool: fewer than asked for when little is left.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reserve_extents(
        &self,
        request: &ReserveExtents,
    ) -> Result<Vec<ExtentRun>, ClientError> {
        const WHAT: &str = "reserve extents";
        let request = v1::ReserveExtentsRequest::from(*request);
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(ReservationsClient, channel).reserve_extents(request).await
        });
        let runs = wire::list("runs", answer.await?.runs);
        runs.map_err(|source| ClientError::Malformed { what: WHAT, source })
    }

    /// Gives reserved extents back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn release_extents(&self, request: &ReleaseExtents) -> Result<(), ClientError> {
        let request = v1::ReleaseExtentsRequest::from(request.clone());
        let answer = self.call_raw("release extents", request, async |channel, request| {
            on_channel!(ReservationsClient, channel).release_extents(request).await
        });
        answer.await.map(|v1::ReleaseExtentsResponse {}| ())
    }

    /// A page of what an incarnation has reserved.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reservations_page(
        &self,
        node: NodeIncarnation,
        page: PageRequest,
    ) -> Result<Page<PoolReservation>, ClientError> {
        const WHAT: &str = "list the reservations";
        let request =
            v1::ListReservationsRequest { node: Some(node.into()), page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(ReservationsClient, channel).list_reservations(request).await
        });
        let answer = answer.await?;
        let items = wire::list("reservations", answer.reservations);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Everything that an incarnation has reserved; a pool may come several times.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reservations(
        &self,
        node: NodeIncarnation,
    ) -> Result<Vec<PoolReservation>, ClientError> {
        every(|page| self.reservations_page(node, page)).await
    }
}
