//! Calls about certificates that are revoked.

use lunar_proto::domain::{RevokeCertificate, RevokedCertificate};
use lunar_proto::v1;
use lunar_proto::v1::certificates_client::CertificatesClient;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient};

impl MetadataClient {
    /// Refuses a certificate from now on. Doing it again changes nothing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revoke_certificate(&self, request: &RevokeCertificate) -> Result<(), ClientError> {
        let request = v1::RevokeCertificateRequest::from(request.clone());
        let answer = self.call_raw("revoke the certificate", request, async |channel, request| {
            on_channel!(CertificatesClient, channel).revoke_certificate(request).await
        });
        answer.await.map(|v1::RevokeCertificateResponse {}| ())
    }

    /// The certificates that are refused, by serial number.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revoked_certificates(&self) -> Result<Vec<RevokedCertificate>, ClientError> {
        let request = v1::ListRevokedRequest {};
        self.call("list the revoked certificates", request, async |channel, request| {
            on_channel!(CertificatesClient, channel).list_revoked(request).await
        })
        .await
    }
}
