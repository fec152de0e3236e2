//! HMAC-SHA-256 for the JWT library. Tokens are only ever signed with shared secrets, so no code for RSA or elliptic curves
//! is built in: a token that names another algorithm is refused before its signature is computed.

use std::sync::Once;

use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, TokenData, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Signer, Verifier},
};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |&algorithm, key| Ok(Box::new(Hs256::new(algorithm, key.as_bytes())?)),
    verifier_factory: |&algorithm, key| Ok(Box::new(Hs256::new(algorithm, key.try_get_as_bytes()?)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

struct Hs256(Hmac<Sha256>);

impl Hs256 {
    fn new(algorithm: Algorithm, secret: &[u8]) -> Result<Self, Error> {
        if algorithm != Algorithm::HS256 {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        let keyed = Hmac::new_from_slice(secret).map_err(|_| Error::from(ErrorKind::InvalidKeyFormat))?;
        Ok(Self(keyed))
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.clone().chain_update(message).finalize().into_bytes().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        // Takes the same time wherever they differ.
        self.0.clone().chain_update(message).verify_slice(signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

/// The library accepts one cryptography provider for the whole process.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| PROVIDER.install_default().expect("nobody else names the JWT library's cryptography"));
}

/// A token over `claims`, signed with `secret`.
///
/// # Errors
/// When the claims cannot be written as JSON.
pub(crate) fn sign<C: Serialize>(claims: &C, secret: &[u8]) -> Result<String, Error> {
    install();
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &EncodingKey::from_secret(secret))
}

/// Reads a token, and checks its signature and what `validation` says.
///
/// # Errors
/// When it is not a token, has another signature or algorithm, or has invalid claims.
pub(crate) fn verify<C: DeserializeOwned + Clone>(
    token: &str,
    secret: &[u8],
    validation: &Validation,
) -> Result<TokenData<C>, Error> {
    install();
    jsonwebtoken::decode::<C>(token, &DecodingKey::from_secret(secret), validation)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    use super::*;

    /// RFC 7515, appendix A.1.
    #[test]
    fn the_example_of_the_standard_has_its_signature() {
        let key = BASE64_URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let token = concat!(
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.",
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        );
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        assert_eq!(verify::<Value>(token, &key, &validation).unwrap().claims["iss"], "joe");
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signed = Hs256::new(Algorithm::HS256, &key).unwrap().try_sign(message.as_bytes()).unwrap();
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(signed), signature);
    }

    #[test]
    fn a_token_of_another_algorithm_or_signature_is_refused() {
        let secret = b"a secret of some length";
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let token = sign(&json!({ "iss": "key" }), secret).unwrap();
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
        assert!(verify::<Value>(&token, secret, &validation).is_ok());
        assert!(verify::<Value>(&token, b"another secret", &validation).is_err());
        for algorithm in ["none", "None", "HS384", "HS512", "RS256", "PS256", "ES256", "ES384", "EdDSA", ""] {
            let header = BASE64_URL_SAFE_NO_PAD.encode(json!({ "typ": "JWT", "alg": algorithm }).to_string());
            for signature in [signature, ""] {
                assert!(
                    verify::<Value>(&format!("{header}.{claims}.{signature}"), secret, &validation).is_err(),
                    "{algorithm}"
                );
            }
        }
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        for bit in 0..decoded.len() * 8 {
            let mut other = decoded.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let other = BASE64_URL_SAFE_NO_PAD.encode(other);
            assert!(verify::<Value>(&format!("{header}.{claims}.{other}"), secret, &validation).is_err(), "bit {bit}");
        }
        for length in 0..decoded.len() {
            let short = BASE64_URL_SAFE_NO_PAD.encode(&decoded[..length]);
            assert!(verify::<Value>(&format!("{header}.{claims}.{short}"), secret, &validation).is_err(), "{length}");
        }
    }
}
