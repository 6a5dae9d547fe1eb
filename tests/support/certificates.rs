//! Certificates for servers and clients of one test, made by the command openssl.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

/// Puts three certificates into `folder`, `NAME.pem` with `NAME.key`: an authority `ca`, a `server` on this machine, and a
/// `client` called `svc.example`.
pub fn make(folder: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
        let output = output.expect("the command openssl is on this machine");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {ec} -days 2 -keyout ca.key -out ca.pem -subj /CN=ca"));
    for (name, names) in [("server", "DNS:localhost,IP:127.0.0.1"), ("client", "DNS:svc.example")] {
        fs::write(folder.join("extensions"), format!("subjectAltName={names}\n")).expect("writable");
        openssl(&format!("req {ec} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem"
        ));
        fs::set_permissions(folder.join(format!("{name}.key")), fs::Permissions::from_mode(0o600)).expect("ours");
    }
}
