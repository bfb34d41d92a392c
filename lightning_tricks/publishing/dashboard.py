"""What TensorBoard shows at one click: the charts of its Custom Scalars page. Data only.

Each chart is a list of patterns; TensorBoard matches them at the beginning of a tag, so one that means a whole tag
ends in ``$``.
"""

from __future__ import annotations

_EACH = r"(/optimizer\d+)?$"

Chart = list[object]

LAYOUT: dict[str, dict[str, Chart]] = {
    "gradients": {
        "global norm, log10": ["Multiline", [r"grad/norm_log10" + _EACH]],
        "clipping": ["Multiline", [r"grad/clip_coefficient" + _EACH, r"grad/clipped_fraction" + _EACH]],
        "norm of each parameter": ["Multiline", [r"grad/norm/(?!optimizer\d+$).*"]],
        "norm of each group": ["Multiline", [r"grad/group/.*"]],
        "update / weight": ["Multiline", [r"grad/update_ratio/.*"]],
        "NaN and inf; noise scale": ["Multiline", [r"grad/nonfinite" + _EACH, r"grad/noise_scale" + _EACH]],
    },
    "schedule": {
        "learning rate": ["Multiline", [r"schedule(/optimizer\d+)?/lr(/.*)?$"]],
        "momentum, weight decay": ["Multiline", [r"schedule(/optimizer\d+)?/(momentum|weight_decay)$"]],
        "updates": ["Multiline", [r"trainer/updates" + _EACH]],
        "accumulation": ["Multiline", [r"accumulation/.*"]],
    },
    "precision": {
        "loss scale": ["Multiline", [r"amp/scale$"]],
        "skipped updates": ["Multiline", [r"amp/skipped_steps$"]],
        "headroom by module": ["Multiline", [r"amp/headroom/.*"]],
        "underflow by module": ["Multiline", [r"amp/underflow/.*"]],
    },
    "collapse": {
        "alarms": ["Multiline", [r"collapse/.*/alarm$"]],
        "representation": ["Multiline", [r"collapse/representation_collapse[^/]*/(?!alarm$).*"]],
        "prediction": ["Multiline", [r"collapse/prediction_collapse[^/]*/(?!alarm$).*"]],
        "modes": ["Multiline", [r"collapse/mode_collapse[^/]*/(?!alarm$).*"]],
        "dead units": ["Multiline", [r"collapse/dead_units[^/]*/(?!alarm$).*"]],
        "usage of entries": ["Multiline", [r"collapse/usage_collapse[^/]*/(?!alarm$).*"]],
        "posterior": ["Multiline", [r"collapse/posterior_collapse[^/]*/(?!alarm$).*"]],
        "generations": ["Multiline", [r"collapse/generation_drift[^/]*/(?!alarm$).*"]],
        "rollbacks": ["Multiline", [r"collapse/rollback/.*"]],
    },
    "diagnosis": {
        "loss": ["Multiline", [r"diagnosis/training_doctor/(loss|fixed_batch_loss)$"]],
        "gradients from first to last layer": ["Multiline", [r"diagnosis/training_doctor/(first|last)_gradient$"]],
        "update / weight": ["Multiline", [r"diagnosis/training_doctor/update_ratio$"]],
        "waiting for data": ["Multiline", [r"diagnosis/training_doctor/waiting$"]],
        "memory in use (MB)": ["Multiline", [r"diagnosis/memory_doctor/(allocated|resident)$"]],
        "memory: live tensors; growth (kB per update)": [
            "Multiline",
            [r"diagnosis/memory_doctor/(live_tensors|growth_per_step)$"],
        ],
        "findings": [
            "Multiline",
            [r"diagnosis/(?!(training|memory)_doctor/).*", r"diagnosis/(training|memory)_doctor/alarm$"],
        ],
    },
}
