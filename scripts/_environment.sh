# shellcheck shell=bash
# Sourced by the other scripts: goes to the top of the checkout and makes sure that an environment holds dltrain as
# pyproject.toml now asks for it. usage: . "$(dirname "$0")/_environment.sh"; prepare [EXTRA [ENVIRONMENT]]
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

prepare() {
    local extra=${1:-} venv=${2:-.venv} stamp wanted
    stamp=$venv/.installed${extra:+-$extra}
    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
    # Installed in place, so that only a change of pyproject.toml calls for another installation.
    wanted=$(cksum <pyproject.toml)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing dltrain${extra:+[$extra]} into $venv (a few minutes and several GB the first time)" >&2
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" >&2
        echo "$wanted" >"$stamp"
    fi
}
