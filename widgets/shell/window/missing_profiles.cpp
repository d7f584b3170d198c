#include "shell/window/missing_profiles.h"

#include "plan/factor_methods.h"
#include "plan/values_search.h"
#include "shell/window/measure_workspace.h"
#include "shell/window/texts_workspace.h"

#include <QDir>
#include <QFileDialog>
#include <QFileInfo>

#include <utility>

namespace espalier
{

MissingProfiles::MissingProfiles(const WindowContext& context, MeasureWorkspace* measure, QObject* parent)
    : Workspace(context, parent), m_measure(measure)
{
    connect(plans(), &PlanController::planChanged, this, &MissingProfiles::show);
    connect(workbench().deep(), &DeepProfile::changed, this, &MissingProfiles::show);
    connect(workbench().deep(), &DeepProfile::jobChanged, this, &MissingProfiles::show);
    connect(workbench().engine(), &EngineClient::stateChanged, this, &MissingProfiles::show);
    connect(&workbench(), &Workbench::profileChanged, this, &MissingProfiles::tellOfConstants);
}

void MissingProfiles::forget()
{
    m_factors.clear();
    m_constants.clear();
    m_values.clear();
}

void MissingProfiles::show()
{
    if (!isOpen()) return;
    tellOfConstants();
    tellOfFactors();
    tellOfValues();
}

void MissingProfiles::tellOfFactors()
{
    const DeepProfile* deep = workbench().deep();
    using State = DeepProfile::State;
    PlanController* plans = this->plans();
    const CompressionPlan& plan = plans->plan();
    const bool settled = deep->state() == State::Missing || deep->state() == State::Failed || deep->ready();
    QString refusal;
    const bool factorsMissing = factorsNeedProfile(plan) && !workbench().evaluation()->holds(plan.factors().profileSha256);
    if (settled && factorsMissing) refusal = deep->ready() ? QStringLiteral("other") : QStringLiteral("none");
    if (std::exchange(m_factors, refusal) == refusal) return;
    banners().dismiss(QStringLiteral("rank-profile"));
    if (refusal.isEmpty()) return;
    Banner banner;
    banner.id = QStringLiteral("rank-profile");
    banner.kind = Banner::Kind::Warning;
    if (deep->ready()) {
        banner.cause = tr("The factors of this plan come from another profile than the one measured here.");
        banner.actions.push_back({tr("Use this profile"), [plans] { plans->setPlanFactors(plans->rankFactors()); }, true});
    } else {
        banner.cause = tr("The factors of this plan come from a profile that is not on this computer.");
        banner.actions.push_back({tr("Measure ranks and gradients"), [this] { workbench().measureRanks(); }, true});
    }
    banner.consequence = tr("It cannot be evaluated or exported. Plan and history are kept.");
    banner.actions.push_back({tr("Use plain SVD"), [plans] { plans->setPlanFactors({"svd", {}}); }});
    banners().show(banner);
}

void MissingProfiles::tellOfConstants()
{
    // Before the engine has opened the model nothing was looked for.
    if (!isOpen() || !workbench().forwardSupported()) return;
    PlanController* plans = this->plans();
    const CompressionPlan& plan = plans->plan();
    const EvaluationController& evaluation = *workbench().evaluation();
    const bool here = !plans->constantsProfile().empty();
    const bool settled = here || (!plans->constantsProblem().isEmpty() && !workbench().profiling());
    QString refusal;
    if (settled && !evaluation.measurable(plan) && plan.needsConstants() && !evaluation.holds(plan.constantsProfile()))
        refusal = here ? QStringLiteral("other") : QStringLiteral("none");
    if (std::exchange(m_constants, refusal) == refusal) return;
    banners().dismiss(QStringLiteral("constants-profile"));
    if (refusal.isEmpty()) return;
    Banner banner;
    banner.id = QStringLiteral("constants-profile");
    banner.kind = Banner::Kind::Warning;
    if (here) {
        banner.cause = tr("The constants of this plan come from another profile than the one measured here.");
        banner.actions.push_back({tr("Use this profile"), [plans] { plans->setConstantsFrom(plans->constantsProfile()); }, true});
    } else {
        banner.cause = tr("The constants of this plan come from a profile that is not on this computer.");
        banner.actions.push_back({tr("Measure the profile"), [this] { m_measure->measureProfile(); }, true});
    }
    banner.consequence = tr("It cannot be evaluated or exported. Plan and history are kept.");
    banner.actions.push_back({tr("Drop these experts"), [plans] { plans->setDroppedAs({}); }});
    banners().show(banner);
}

void MissingProfiles::tellOfValues()
{
    QStringList files;
    for (const ValuesInfo& info : lostValues(plans()->plan()))
        files += QString::fromStdString(info.file.empty() ? info.id.substr(0, 12) : info.file);
    const QString told = files.join(QLatin1Char('\n'));
    if (std::exchange(m_values, told) == told) return;
    const QString id = QStringLiteral("values-file");
    banners().dismiss(id);
    if (files.isEmpty()) return;
    Banner banner;
    banner.id = id;
    banner.kind = Banner::Kind::Warning;
    const QString name = QFileInfo(files.first()).fileName();
    banner.cause = files.size() == 1 ? tr("The values file of this plan, %1, is not where it was.").arg(name)
                                     : tr("%n values files of this plan, %1 and others, are not where they were.", nullptr,
                                          static_cast<int>(files.size()))
                                           .arg(name);
    banner.consequence = tr("The plan cannot be evaluated or exported. Plan, history and what was measured are kept. It was %1, and is not "
                            "beside the session or in %2 either.")
                             .arg(QDir::toNativeSeparators(files.first()), QDir::toNativeSeparators(workbench().valuesFolder()));
    banner.actions.push_back({tr("Find it…"), [this] { askForValues(); }, true, false});
    banners().show(banner);
}

void MissingProfiles::askForValues()
{
    QFileDialog* dialog = fileDialog(m_in, tr("Find the values file"), tr("Values files (*.safetensors)"), QStringLiteral("values"));
    dialog->setFileMode(QFileDialog::ExistingFile);
    connect(dialog, &QFileDialog::fileSelected, &workbench(), &Workbench::findValues);
    dialog->show();
}

}  // namespace espalier
