"""Gradle: a project whose tasks come from the build cache."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.clients.http.builds import CacheAddress, ClientBuild
from tests.clients.tools import run, tool, tree

_SETTINGS = """\
rootProject.name = 'app'
buildCache { local { enabled = false } }
"""
# What the second one makes is different each time, and too large for one read.
_BUILD = """\
@CacheableTask
class Shout extends DefaultTask {
    @InputFile @PathSensitive(PathSensitivity.NONE) File from
    @OutputFile File to
    @TaskAction void run() { to.text = from.text.toUpperCase() }
}
@CacheableTask
class Draw extends DefaultTask {
    @Input int count
    @OutputDirectory File to
    @TaskAction void run() {
        def bytes = new byte[3000000]
        new Random().nextBytes(bytes)
        new File(to, 'big').bytes = bytes
        (1..count).each { new File(to, "$it").text = "file $it\\n" }
    }
}
task shout(type: Shout) { from = file('in.txt'); to = file("$buildDir/shout.txt") }
task draw(type: Draw) { count = 60; to = file("$buildDir/drawn") }
task all(dependsOn: [shout, draw])
"""
# Debian's Gradle needs one of OpenJDK 17 to 25; this is the one that it was installed with.
_JAVA = "/usr/lib/jvm/default-java"
_OPTIONS = ("--no-daemon", "--build-cache", "--console=plain")


class Gradle:
    """A project of two tasks that can be cached."""

    actions = 2

    def __init__(self, folder: Path) -> None:
        # Compiled build scripts stay there; its own build cache is switched off.
        self._home = folder / "gradle-home"
        self._root = folder / "project"
        self._root.mkdir(parents=True)
        (self._root / "build.gradle").write_text(_BUILD)
        (self._root / "in.txt").write_text("hello\n")

    def setting(self, at: CacheAddress) -> str:
        url = f"{at.url_with_token}/gradle/"
        return f"buildCache {{ remote(HttpBuildCache) {{ url = '{url}'; push = true }} }}"

    def build(self, at: CacheAddress, code: int = 0) -> ClientBuild:
        (self._root / "settings.gradle").write_text(f"{_SETTINGS}{self.setting(at)}\n")
        for made in ("build", ".gradle"):
            shutil.rmtree(self._root / made, ignore_errors=True)
        env = {
            "HOME": str(self._home),
            "JAVA_HOME": _JAVA,
            "JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # half the CPU of one build
        }
        home = f"--gradle-user-home={self._home}"
        result = run(tool("gradle"), *_OPTIONS, home, "all", cwd=self._root, env=env, code=code)
        assert not list(self._home.glob("caches/build-cache*")), "Gradle has cached locally"
        return ClientBuild(
            hits=_count(r"(\d+) from cache", result.output),
            executed=_count(r"(\d+) executed", result.output),
            outputs=tree(self._root / "build"),
            code=result.code,
            output=result.output,
        )


def _count(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
