// espalier-engine-compute: the verbs. Started by espalier-engine (front.cpp).
#include "engine_main.h"
#include "options.h"
#include "terminal.h"
#include "verb_documentation.h"

#include "model/moe_model.h"

#include <CLI/CLI.hpp>

namespace espalier
{

namespace
{

void addVerbs(CLI::App& app, Verbs& verbs, int output)
{
    verbs.before([](const CommonOptions& options) { return checkDevice(options.device); });
    addInspect(verbs);
    addTokenize(verbs);
    addForward(verbs);
    addMethods(verbs);
    addProfile(verbs);
    addPlan(verbs);
    addEstimate(verbs);
    addEvaluate(verbs);
    addTasks(verbs);
    addGenerate(verbs);
    addSpeed(verbs);
    addExport(verbs);
    addRecover(verbs);
    addCompress(verbs);
    addServe(verbs, output);
    addDocumentation(verbs, app);
}

}  // namespace

}  // namespace espalier

int main(int argc, char** argv)
{
    const int output = espalier::takeStandardOutput();
    espalier::installStopSignals();
    espalier::installReadFaultSignal(argc, argv, output);
    return espalier::runEngine(argc, argv, output,
                               [output](CLI::App& app, espalier::Verbs& verbs) { espalier::addVerbs(app, verbs, output); });
}
