//! Handlers of certificates that are revoked.

use lunar_proto::domain::RevokeCertificate;
use lunar_proto::v1;
use lunar_proto::v1::certificates_server::Certificates;
use tonic::{Request, Response, Status};
use tracing::info;

use super::backups::unix_seconds;
use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Certificates for Handlers<S> {
    async fn revoke_certificate(
        &self,
        request: Request<v1::RevokeCertificateRequest>,
    ) -> Result<Response<v1::RevokeCertificateResponse>, Status> {
        Identity::require_admin(&request)?;
        let request = RevokeCertificate::try_from(request.into_inner())?;
        let (serial, now) = (request.serial.clone(), unix_seconds());
        self.call(move |service| block_on(service.revoke_certificate(&request, now))).await?;
        info!(%serial, "certificate revoked");
        Ok(Response::new(v1::RevokeCertificateResponse {}))
    }

    async fn list_revoked(
        &self,
        request: Request<v1::ListRevokedRequest>,
    ) -> Result<Response<v1::ListRevokedResponse>, Status> {
        Identity::require_admin(&request)?;
        let revoked = self.call(|service| block_on(service.revoked_certificates())).await?;
        Ok(Response::new(revoked.into()))
    }
}
