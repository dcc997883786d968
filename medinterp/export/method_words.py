"""Methods in words that a reader of the report understands: what each map says, and what it does not."""

from dataclasses import dataclass

_TIMES = "\u00d7"


@dataclass(frozen=True)
class MethodWords:
    """What a method is called, and what its map does and does not say."""

    title: str
    says: str
    says_not: str


_METHODS = {
    "saliency": MethodWords(
        "Saliency",
        "Each voxel shows how fast the measured number changes when that voxel alone becomes brighter. Warm voxels "
        "push the number up, cool voxels push it down, voxels without colour hardly matter.",
        "It does not say how much of the number a voxel is responsible for, and it is exact only for small changes "
        "around this very scan.",
    ),
    "smoothgrad": MethodWords(
        "SmoothGrad",
        "Each voxel shows how fast the number changes when that voxel becomes brighter, averaged over copies of the "
        "scan with more noise: the part of the saliency that stays when the scan is measured again.",
        "The copies are noisier than the scan, so the model smooths them more than it smoothed the scan itself. It is "
        "no share of the number.",
    ),
    "input_x_gradient": MethodWords(
        f"Input {_TIMES} gradient",
        "Each voxel shows its share of the measured number, in the number's own unit. On this kind of network the "
        "shares of all voxels, with the one share owed to the assumed noise level, add up to the number; the "
        "completeness row below says how closely.",
        "A large share is not a large influence: a bright voxel with a small weight can hold much of the number. It "
        "does not say what the number would be had the tissue been different.",
    ),
    "integrated_gradients": MethodWords(
        "Integrated gradients",
        "Each voxel shows its share of the difference between the number on this scan and the number on the "
        "baseline, in the number's own unit. The shares add up to that difference; the completeness row below says "
        "how closely.",
        "The shares depend on the baseline: another baseline asks another question. They do not say what a single "
        "voxel does on its own, away from the path between baseline and scan.",
    ),
    "gradient_shap": MethodWords(
        "Gradient SHAP (expected gradients)",
        "Each voxel shows its share of the difference between the number on this scan and its mean over many noisy "
        "baselines, in the number's own unit.",
        "The shares add up only on average over many draws: read the standard error. They depend on the baseline.",
    ),
    "equivalent_filter": MethodWords(
        "Equivalent filter",
        "Each voxel shows the weight with which it enters the measured number: the filter that the network amounted "
        "to at this place. A narrow filter keeps detail, a wide one averages; cool voxels are subtracted.",
        "The filter belongs to this scan and this place: the network forms another one elsewhere. A weight is not a "
        "share; a dark voxel with a large weight adds little to the number.",
    ),
    "deep_lift": MethodWords(
        "DeepLIFT",
        "Each voxel shows its share of the difference between the number on this scan and the number on the baseline, "
        "split by how far every activation moved between the two.",
        "The shares depend on the baseline, and on the network's inner wiring: two networks that compute the same "
        "number can divide it differently.",
    ),
    "lrp": MethodWords(
        "Layer-wise relevance propagation",
        "Each voxel shows what reaches it when the number is handed back layer by layer, every unit dividing what it "
        "received by what its inputs contributed.",
        "Where large parts cancel, the rule damps them and keeps a part for itself, so the shares need not add up to "
        "the number; the completeness row below says how much is missing.",
    ),
    "guided_backprop": MethodWords(
        "Guided backpropagation",
        "A pattern of edges and spots that excite the measured number, made by passing back only what is positive.",
        "Neither its size nor its sign is a statement about the number, and the pattern depends little on what the "
        "model learned: look at the randomisation row below before anything else.",
    ),
    "deconvolution": MethodWords(
        "Deconvolution",
        "A pattern that excites the measured number, made by passing back only what is positive, whether or not a "
        "unit was active on this scan.",
        "Neither its size nor its sign is a statement about the number; the pattern shows the network's filters more "
        "than this scan.",
    ),
    "grad_cam": MethodWords(
        "Grad-CAM",
        "Each voxel shows how much of the number the features of one block carry at that place, on the block's own "
        "coarser grid.",
        "It is no finer than the block: one of its voxels is several of the scan, and where within it the number was "
        "made cannot be seen.",
    ),
    "guided_grad_cam": MethodWords(
        "Guided Grad-CAM",
        "The pattern of guided backpropagation, where Grad-CAM says that the block's features carry the number.",
        "It inherits the weakness of both: the detail depends little on what the model learned, and the places can be "
        "wrong.",
    ),
    "occlusion": MethodWords(
        "Occlusion",
        "Each window shows how much the number falls when the window's content is replaced by the baseline, spread "
        "evenly over its voxels; the region table holds the whole fall.",
        "Windows that can stand in for each other each seem not to matter. The falls need not add up to anything, and "
        "they depend on what was put in place.",
    ),
    "feature_ablation": MethodWords(
        "Feature ablation",
        "Each region shows how much the number falls when its content is replaced by the baseline, spread evenly over "
        "its voxels; the region table holds the whole fall.",
        "Regions that can stand in for each other each seem not to matter. The falls need not add up to anything, and "
        "they depend on what was put in place.",
    ),
    "exact_shapley": MethodWords(
        "Shapley values, exact",
        "Each region shows its fair share of the difference between the number on this scan and on the baseline: its "
        "mean gain over all orders in which regions could be added. The shares add up to the difference.",
        "The shares depend on how the scan was divided and on the baseline.",
    ),
    "sampled_shapley": MethodWords(
        "Shapley values, sampled",
        "Each region shows its fair share of the difference between the number on this scan and on the baseline, "
        "estimated from random orders of adding regions.",
        "An estimate: the region table gives its standard error. It depends on the division and on the baseline.",
    ),
    "kernel_shap": MethodWords(
        "Kernel SHAP",
        "Each region shows its fair share of the difference between the number on this scan and on the baseline, "
        "estimated by a weighted regression over random subsets of regions.",
        "An estimate: the region table gives its standard error. It depends on the division and on the baseline.",
    ),
    "lime": MethodWords(
        "LIME",
        "Each region shows the slope of the linear model that best stands in for the number near this scan, when "
        "regions are replaced by the baseline at random.",
        "Where the row 'determination' is low, nothing linear describes the number there, and the slopes mean little.",
    ),
}
_ALWAYS = (
    "It explains what the model computed, mistakes included; it does not show disease, and it does not prove that "
    "the anatomy under a colour is real."
)


def method_words(name: str) -> MethodWords:
    """Return the words for a method by its registered name; a method of a plugin gets words that fit any map."""
    known = _METHODS.get(name)
    if known is None:
        title = name.replace("_", " ").capitalize()
        says = "Each voxel shows what this method ascribes to it for the measured number: warm above zero, cool below."
        known = MethodWords(title, says, "What its values mean beyond that only the plug-in that brings it can say.")
    return MethodWords(known.title, known.says, f"{known.says_not} {_ALWAYS}")
