//! The driver package: image, INF and symbols in dist/, test-signed where osslsigncode is installed.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::driver::{self, Arch};
use crate::setup;
use crate::shell::{find, output, path, program, run, step};

/// Makes dist/ARCH.
pub(crate) fn make(arch: Arch) -> anyhow::Result<()> {
    let image = driver::build(&setup::install()?, arch)?;
    let folder = path("dist").join(arch.name());
    step(&format!("packaging into {}", folder.display()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let copy = |from: &Path, to: &str| {
        fs::copy(from, folder.join(to))
            .with_context(|| format!("cannot copy {}", from.display()))
            .map(drop)
    };
    copy(&image, "portcullis.sys")?;
    copy(&image.with_extension("pdb"), "portcullis.pdb")?;
    let script = "remove-boot-filters.ps1";
    copy(&path(&format!("inf/{script}")), script)?;
    let inf = stamp(
        &fs::read_to_string(path("inf/portcullis.inx"))?,
        arch,
        &date()?,
    );
    fs::write(folder.join("portcullis.inf"), inf)?;
    sign(&folder)?;
    println!(
        "{}: portcullis.sys, portcullis.pdb, portcullis.inf, {script}\n\
         The catalog is made on Windows: `inf2cat /driver:. /os:10_X64`, then sign it (see README.md).",
        folder.display()
    );
    Ok(())
}

/// What stampinf does to an INX.
fn stamp(inx: &str, arch: Arch, date: &str) -> String {
    let version = format!("{date},{}.0", env!("CARGO_PKG_VERSION"));
    inx.lines()
        .map(|line| {
            if line.trim_start().starts_with("DriverVer") {
                format!("DriverVer   = {version}")
            } else {
                line.replace("$ARCH$", arch.inf_name())
                    .replace("$KMDFVERSION$", driver::KMDF_VERSION)
            }
        })
        .collect::<Vec<_>>()
        .join("\r\n")
        + "\r\n"
}

/// The date of the last commit, as INF files write it: packages of one commit are equal.
fn date() -> anyhow::Result<String> {
    let date =
        output(program("git").args(["log", "-1", "--format=%cd", "--date=format:%m/%d/%Y"]))?;
    Ok(date.trim().to_owned())
}

/// Signs the image with a certificate of its own for test machines.
fn sign(folder: &Path) -> anyhow::Result<()> {
    let (Some(osslsigncode), Some(openssl)) = (find(&["osslsigncode"]), find(&["openssl"])) else {
        println!(
            "SKIPPED: test signing: install osslsigncode and openssl, or sign on Windows with signtool"
        );
        return Ok(());
    };
    let key = path("target/test-signing.key");
    let certificate = path("target/test-signing.cer");
    if !key.exists() {
        run(program(openssl)
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365",
            ])
            .args([
                "-subj",
                "/CN=Portcullis test certificate",
                "-addext",
                "extendedKeyUsage=codeSigning",
            ])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate))?;
    }
    let image = folder.join("portcullis.sys");
    let signed = folder.join("portcullis.signed.sys");
    run(program(osslsigncode)
        .args(["sign", "-h", "sha256", "-ph", "-certs"])
        .arg(&certificate)
        .arg("-key")
        .arg(&key)
        .arg("-in")
        .arg(&image)
        .arg("-out")
        .arg(&signed))?;
    fs::rename(&signed, &image)?;
    fs::copy(&certificate, folder.join("portcullis-test.cer"))?;
    Ok(())
}
