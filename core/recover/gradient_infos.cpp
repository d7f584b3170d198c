// What the methods that follow gradients are called and take.
#include "recover/recover_methods.h"

#include <algorithm>

namespace espalier
{

namespace
{

ParamSpec whole(const char* key, int value, double low, const char* unit, const char* help)
{
    ParamSpec spec;
    spec.key = key;
    spec.type = ParamType::Integer;
    spec.defaultValue = value;
    spec.low = low;
    spec.high = 1e6;
    spec.unit = unit;
    spec.help = help;
    return spec;
}

ParamSpec number(const char* key, double value, double low, double high, const char* help)
{
    ParamSpec spec;
    spec.key = key;
    spec.type = ParamType::Number;
    spec.defaultValue = value;
    spec.low = low;
    spec.high = high;
    spec.help = help;
    return spec;
}

ParamSpec yesOrNo(const char* key, bool value, const char* help)
{
    ParamSpec spec;
    spec.key = key;
    spec.type = ParamType::Switch;
    spec.defaultValue = value;
    spec.help = help;
    return spec;
}

// What all of them take (recover/training_settings.h).
void addSteps(MethodInfo& info, double rate, int steps, int batch)
{
    ParamSpec schedule;
    schedule.key = "schedule";
    schedule.type = ParamType::Choice;
    schedule.defaultValue = "cosine";
    schedule.choices = {"cosine", "linear", "constant"};
    schedule.help = "How the rate falls after the warm-up.";
    info.params.insert(
        info.params.end(),
        {whole("steps", steps, 1, "steps", "Steps of AdamW."), whole("batch", batch, 1, "windows", "Windows of the text in a step."),
         whole("micro-batch", 0, 0, "windows",
               "Windows that go through the model at once, whose gradients are added up; 0: as many as make 2,048 tokens."),
         number("rate", rate, 1e-8, 10, "Learning rate at its highest."),
         whole("warmup", std::max(steps / 20, 1), 0, "steps", "Steps over which the rate rises from 0."), schedule,
         number("decay", 0, 0, 1, "Weight decay, apart from the gradient."),
         number("clip", 1, 0, 1e6, "Largest norm of all gradients together; 0: none."),
         whole("evaluate-every", std::max(steps / 10, 1), 0, "steps",
               "Steps between two looks at the gate's text, of which the best is kept; 0: one at the end.")});
    info.slot = Slot::Recover;
    info.runsModel = true;
    info.stochastic = true;
    info.answers = {Answer::Values};
}

}  // namespace

MethodInfo loraInfo()
{
    MethodInfo info;
    info.id = "lora";
    info.title = "Fine-tune by low-rank adapters";
    info.help =
        "Adapters beside the matrices that the plan keeps are trained on the text and merged: of a factored matrix beside each of its "
        "factors, so that its rank stays what it is.";
    info.params = {whole("rank", 8, 1, "", "Rank of an adapter."),
                   number("alpha", 16, 1e-6, 1e6, "An adapter counts alpha / rank times."),
                   number("dropout", 0.05, 0, 0.95, "Share of an adapter's inputs that a step leaves out."),
                   yesOrNo("experts", true, "Train the routed experts."),
                   yesOrNo("attention", true, "Train the projections of attention."),
                   yesOrNo("shared", true, "Train the shared experts."),
                   yesOrNo("dense", false, "Train the MLPs of layers without experts.")};
    addSteps(info, 2e-3, 200, 16);
    info.source = "LoRA (Hu et al., arXiv 2106.09685) with AdamW (arXiv 1711.05101); recovery of MoE-I2 (arXiv 2411.01016)";
    return info;
}

MethodInfo routerKdInfo()
{
    MethodInfo info;
    info.id = "router-kd";
    info.title = "Distil into the routers";
    info.help =
        "Only the routers are trained, towards what the original model says about the next token: its 256 most likely tokens and the rest, "
        "written down once.";
    info.params = {number("temperature", 1, 0.1, 100, "Both distributions are taken at this temperature.")};
    addSteps(info, 1e-3, 200, 16);
    info.source = "Router-KD (arXiv 2603.02217)";
    return info;
}

MethodInfo entropyRouterInfo()
{
    MethodInfo info;
    info.id = "entropy-router";
    info.title = "Sharpen the routers";
    info.help =
        "Only the routers are trained, on the text and on the entropy of what they say, so that a token's first experts carry more of it: "
        "for plans in which fewer experts are active (--top-k).";
    info.params = {number("lambda", 1e-2, 0, 100, "Weight of the mean entropy, in nats, beside the loss of the text."),
                   yesOrNo("anneal", true,
                           "Begin with as many experts of a token as the model has and go down to the plan's one by one, over the first "
                           "half of the steps.")};
    addSteps(info, 1e-3, 200, 16);
    info.source = "SEER-MoE, entropy-regularised tuning (arXiv 2404.05089)";
    return info;
}

}  // namespace espalier
