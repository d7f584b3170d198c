#include "shell/window/error_notices.h"

#include "look/error_text.h"
#include "look/format.h"
#include "planning/budget_bar.h"

#include <algorithm>

namespace espalier
{

ErrorNotices::ErrorNotices(const WindowContext& context, QObject* parent) : Workspace(context, parent)
{
    connect(&workbench(), &Workbench::notice, this, &ErrorNotices::notice);
    connect(&workbench(), &Workbench::noticeSettled, m_in.banners, &BannerStack::dismiss);
    // Its notice is there already.
    connect(workbench().evaluation(), &EvaluationController::failed, this, [this] {
        if (!m_problems.isEmpty()) m_evaluationProblems << m_problems.last();
    });
    connect(workbench().evaluation(), &EvaluationController::changed, this, [this] {
        if (workbench().evaluation()->quickComplete() && !workbench().evaluation()->busy()) settleProblems(true);
    });
    connect(&workbench(), &Workbench::profileChanged, this, [this] {
        if (!workbench().profiling() && workbench().statistics()) settleProblems(false);
    });
}

void ErrorNotices::forget()
{
    m_problems.clear();
    m_evaluationProblems.clear();
}

void ErrorNotices::notice(const Error& error, const QString& id)
{
    Banner banner;
    banner.id = id;
    const bool problem = id.startsWith(QStringLiteral("problem:"));
    if (problem) {
        // The profile and the evaluation fail for one reason.
        banner.once = true;
        banner.id = withoutNumbers(id);
        // The engine that reopens a model says again what it said before.
        if (error.code == "checkpoint.warning" && banners().repeats(banner.id) > 0) return;
        m_problems << banner.id;
    }
    // One attempt to open something is answered at a time.
    const QStringList attempts = {QStringLiteral("open:"), QStringLiteral("session:")};
    if (std::any_of(attempts.begin(), attempts.end(), [&](const QString& start) { return id.startsWith(start); }))
        banners().dismissOthers(attempts, id);
    banner.kind = QString::fromStdString(error.code).endsWith(QStringLiteral(".warning")) ? Banner::Kind::Warning : Banner::Kind::Error;
    // Of the disk that unsaved work is kept on, whatever model is open.
    banner.ofModel = error.code != "session.recovery_unwritable";
    banner.cause = causeText(error);
    const QString kept = keptText(error);
    const QString action = adviceText(error);
    banner.consequence = QString(kept + QLatin1Char(' ') + action).trimmed();
    if (problem && banner.kind == Banner::Kind::Warning) m_problems.removeAll(banner.id);
    if (error.code == "allocate.infeasible") nameLocks(banner);
    banners().show(banner);
}

// A search that cannot meet its target because of locks: which ones, and the way out.
void ErrorNotices::nameLocks(Banner& banner)
{
    if (!isOpen()) return;
    PlanController* plans = this->plans();
    const std::vector<int> locks = plans->lockedLayers();
    if (locks.empty()) return;
    banner.consequence = QString(plans->lockedText(locks) + QLatin1Char(' ') + banner.consequence).trimmed();
    banner.actions.push_back({unlockText(locks), [plans, locks] { plans->unlock(locks); }});
}

// Errors of a profile or an evaluation go with their cause: when it succeeds.
void ErrorNotices::settleProblems(bool evaluated)
{
    for (const QString& id : QStringList(m_problems)) {
        if (m_evaluationProblems.contains(id) != evaluated) continue;
        m_problems.removeAll(id);
        m_evaluationProblems.removeAll(id);
        banners().dismiss(id);
    }
}

void ErrorNotices::explain(const QString& text, bool isError, const std::vector<int>& locks, bool seen)
{
    const QString id = QStringLiteral("plan-refused");
    // Where no panel that says it is in sight it is a banner, which goes with its cause too.
    if (seen || text.isEmpty() || (!isError && locks.empty())) {
        banners().dismiss(id);
        return;
    }
    Banner banner;
    banner.id = id;
    banner.kind = Banner::Kind::Info;
    banner.cause = text;
    banner.once = true;
    if (!locks.empty()) banner.actions.push_back({unlockText(locks), [this] { plans()->retryUnlocked(); }});
    banners().show(banner);
}

}  // namespace espalier
