"""The profile: which model, which engine settings and which paths this machine uses. Introduced in notebook 01."""

from helpers.config.folders import AUTODL_DATA_DISK, CLASSROOM_MODEL_DIR, REPO_ROOT, in_wsl
from helpers.config.profile import Profile, bin_first, get_profile
from helpers.config.proxies import no_proxy_for, unusable_proxies

__all__ = [
    "AUTODL_DATA_DISK", "CLASSROOM_MODEL_DIR", "REPO_ROOT", "Profile", "bin_first", "get_profile", "in_wsl",
    "no_proxy_for", "unusable_proxies",
]  # fmt: skip
