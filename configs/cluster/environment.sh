# What a login shell on a node of the cluster must know; ~/.bashrc sources it (ray_cluster.yaml, setup_commands).
# First on PATH, since `ray submit` runs `python`, and `ray down` runs `ray`: without it Ray's processes stay up.
export PATH="$HOME/headwater-env/bin:$PATH"
# Ray listens on all interfaces: without this, whoever reaches a port runs code. Clients need the same two.
export RAY_AUTH_MODE=token
# Jobs use the cluster; without it, each would start a Ray of its own.
export RAY_ADDRESS="${RAY_ADDRESS:-auto}"
export RAY_USAGE_STATS_ENABLED=0
