//! Certificates as people make them with the commands of mosquitto-tls(7), which no other helper of the tests can make.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::certificates::Certificate;
use crate::tools::{require_tool, run};

/// An authority made with OpenSSL; its files are gone when it is dropped.
pub struct OpenSsl {
    folder: TempDir,
}

impl OpenSsl {
    /// Makes an authority of this name; None where OpenSSL is not installed.
    ///
    /// # Panics
    /// If OpenSSL fails.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        require_tool("openssl")?;
        let made = Self { folder: TempDir::new().expect("the temporary directory is writable") };
        made.call(&format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN={name}"
        ));
        Some(made)
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Issues a certificate without extensions: of X.509 version 1.
    ///
    /// # Panics
    /// If OpenSSL fails, or makes another version.
    #[must_use]
    pub fn issue(&self, name: &str) -> Certificate {
        let issued = self.request(name);
        self.call(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2"
        ));
        let text = self.call(&format!("x509 -in {name}.crt -noout -text"));
        assert!(
            text.contains("Version: 1 (0x0)"),
            "this OpenSSL makes no certificates of version 1:\n{text}"
        );
        issued
    }

    /// Issues one of version 3 that has its name in the subject alone.
    ///
    /// # Panics
    /// If OpenSSL fails.
    #[must_use]
    pub fn issue_with_extensions(&self, name: &str) -> Certificate {
        let issued = self.request(name);
        std::fs::write(self.path("extensions"), "basicConstraints = CA:FALSE\n")
            .expect("a file can be written");
        self.call(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -extfile extensions"
        ));
        issued
    }

    /// Makes a certificate that nobody but itself has issued.
    ///
    /// # Panics
    /// If OpenSSL fails.
    #[must_use]
    pub fn self_signed(&self, name: &str) -> Certificate {
        self.call(&format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.crt -days 2 -subj /CN={name}"
        ));
        self.named(name)
    }

    /// Revokes certificates, and returns the list.
    ///
    /// # Panics
    /// If OpenSSL fails.
    #[must_use]
    pub fn revoke(&self, names: &[&str]) -> PathBuf {
        let settings = "[ca]\ndefault_ca = own\n[own]\ndatabase = index\ncrlnumber = number\ndefault_md = sha256\n\
                        default_crl_days = 2\n";
        for (file, text) in [("settings", settings), ("index", ""), ("number", "01\n")] {
            std::fs::write(self.path(file), text).expect("a file can be written");
        }
        let own = "-config settings -cert ca.crt -keyfile ca.key";
        for name in names {
            self.call(&format!("ca {own} -revoke {name}.crt"));
        }
        self.call(&format!("ca {own} -gencrl -out list.crl"));
        self.path("list.crl")
    }

    fn request(&self, name: &str) -> Certificate {
        self.call(&format!(
            "req -new -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.named(name)
    }

    fn named(&self, name: &str) -> Certificate {
        Certificate { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn call(&self, arguments: &str) -> String {
        let folder: &Path = self.folder.path();
        let output = run(Command::new("openssl").current_dir(folder).args(arguments.split(' ')), 60);
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
