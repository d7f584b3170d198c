// The workbench's texts: which windows are for scores, for the perplexity while editing and for the locked check; what was measured on
// each, and how a session keeps it.
#include "shell/plan/workbench.h"

#include "look/format.h"
#include "perplexity/perplexity_panel.h"

#include <QDir>
#include <QFileInfo>

#include <algorithm>
#include <memory>

namespace espalier
{

namespace
{

constexpr int kMostWindowLength = 512;
constexpr int kLeastWindowLength = 64;

SessionText sessionText(const char* role, const EvaluationText& text, const std::string& sha256)
{
    SessionText saved;
    saved.role = role;
    if (!text.paths.empty()) saved.path = text.paths.front();
    saved.firstWindow = text.firstWindow;
    saved.windows = text.fullWindows;
    saved.part = text.part;
    saved.textSha256 = sha256;
    return saved;
}

EvaluationText evaluationText(const SessionText& saved, int windowLength)
{
    EvaluationText text;
    text.paths = {saved.path.string()};
    text.firstWindow = saved.firstWindow;
    if (saved.windows > 0) text.fullWindows = saved.windows;
    text.quickWindows = std::min(text.quickWindows, text.fullWindows);
    text.part = saved.part;
    text.windowLength = windowLength;
    return text;
}

QString rangeOf(const EvaluationText& text)
{
    return Workbench::tr("windows %1 to %2").arg(format::count(text.firstWindow), format::count(text.firstWindow + text.fullWindows - 1));
}

const SessionText* textOf(const SessionData& data, const char* role)
{
    const auto found = std::find_if(data.texts.begin(), data.texts.end(), [role](const SessionText& text) { return text.role == role; });
    return found == data.texts.end() ? nullptr : &*found;
}

}  // namespace

TextChoice Workbench::builtInTexts() const
{
    return {m_paths.demoFolder + QStringLiteral("/calibration.txt"), m_paths.demoFolder + QStringLiteral("/validation.txt"),
            m_paths.demoFolder + QStringLiteral("/test.txt"), m_paths.demoFolder + QStringLiteral("/tasks")};
}

bool Workbench::isBuiltIn(const QString& file) const
{
    const TextChoice own = builtInTexts();
    return file == own.calibration || file == own.live || file == own.locked;
}

// A quarter of the model's positions, so that a checkpoint exported from it is measured on the same windows.
int Workbench::windowLengthFor(const ModelShape& shape) const
{
    if (m_windowLength > 1) return m_windowLength;
    const int most = shape.maxPositions > 0 ? shape.maxPositions : 4 * kMostWindowLength;
    return std::clamp(most / 4, std::min(most, kLeastWindowLength), kMostWindowLength);
}

void Workbench::withShares(const TextChoice& texts, const ModelShape& shape, const std::vector<QString>& check,
                           std::function<void(Result<TextShares>)> then)
{
    struct Count {
        TextChoice texts;
        int windowLength = 0;
        CompressionPlan identity;
        std::vector<QString> files;  // still to be read
        std::map<QString, int> windows;
        std::function<void(Result<TextShares>)> then;
    };
    auto count = std::make_shared<Count>();
    count->texts = texts;
    count->windowLength = windowLengthFor(shape);
    count->files = sharedFiles(texts);
    for (const QString& file : check)
        if (std::find(count->files.begin(), count->files.end(), file) == count->files.end()) count->files.push_back(file);
    count->then = std::move(then);
    if (!count->files.empty()) count->identity = CompressionPlan::identity(shape);
    // An evaluation of no windows reads and tokenises a text, and says how many it has.
    const auto step = [this, count](const auto& self) -> void {
        if (count->files.empty()) {
            std::optional<TextShares> shares = shareTexts(count->texts, count->windowLength, count->windows);
            if (shares) return count->then(std::move(*shares));
            const QString name = QFileInfo(count->texts.calibration).fileName();
            count->then(badInput("text.too_short", name.toStdString(),
                                 tr("%1 has too few windows of %2 tokens to be shared by the texts that it is to stand for.")
                                     .arg(name, format::count(count->windowLength))
                                     .toStdString(),
                                 tr("Choose a longer text, or another one for each.").toStdString()));
            return;
        }
        const QString file = count->files.back();
        count->files.pop_back();
        EvaluationText whole;
        whole.paths = {file.toStdString()};
        whole.windowLength = count->windowLength;
        EvaluateRequest request;
        request.path = m_modelPath.toStdString();
        request.text = selectionOf(whole);
        request.plan = toJson(count->identity);
        request.windows.kind = WindowChoice::Kind::Listed;
        request.tier = "quick";
        m_engine.ask(request, {"text", Lane::Interactive}, [count, file, self](const EngineAnswer<EvaluateAnswer>& reply) {
            if (reply.ok()) {
                count->windows[file] = reply->windowCountTotal;
                self(self);
            } else if (reply.outcome == EngineReply::Outcome::Failed) {
                count->then(reply.error);
            } else if (reply.outcome == EngineReply::Outcome::Lost) {
                count->then(
                    Error(badInput("text.unread", file.toStdString(), tr("The engine stopped while it read %1.").arg(file).toStdString())));
            }
        });
    };
    step(step);
}

void Workbench::setCalibrationText(const QString& file)
{
    TextChoice texts = m_texts;
    texts.calibration = file;
    setTexts(texts);
}

void Workbench::setTexts(const TextChoice& texts)
{
    if (!isOpen()) {
        m_texts = texts;
        return;
    }
    // Nothing that was measured goes before the new texts are known to be good.
    std::vector<QString> check;
    for (const auto& [file, now] :
         {std::pair(texts.calibration, m_texts.calibration), {texts.live, m_texts.live}, {texts.locked, m_texts.locked}})
        if (!file.isEmpty() && file != now) check.push_back(file);
    withShares(texts, m_plans.shape(), check, [this, texts, epoch = m_profileEpoch](const Result<TextShares>& shares) {
        if (epoch != m_profileEpoch) return;
        if (shares.ok()) return useTexts(texts, *shares);
        Error error = shares.error();
        error.kept = tr("The texts in use stay, and all that was measured.").toStdString();
        emit notice(error, QStringLiteral("text"));
    });
}

void Workbench::keepRuns()
{
    if (m_evaluation.runs().empty()) return;
    std::erase_if(m_otherTexts, [this](const TextRuns& other) { return other.text == m_evaluation.text(); });
    m_otherTexts.push_back(
        {m_evaluation.text(), m_evaluation.textSha256(), m_evaluation.tokenizerSha256(), m_evaluation.dtype(), m_evaluation.runs()});
}

// Should the file have changed since, its hash says so with the first answer and they go.
void Workbench::restoreRuns()
{
    const auto before =
        std::find_if(m_otherTexts.begin(), m_otherTexts.end(), [this](const TextRuns& other) { return other.text == m_evaluation.text(); });
    if (before == m_otherTexts.end()) return;
    m_evaluation.restoreText(before->textSha256, before->tokenizerSha256, before->dtype);
    for (auto& [hash, run] : before->runs)
        m_evaluation.restoreRun(hash, std::move(run));
    m_otherTexts.erase(before);
}

void Workbench::useTexts(const TextChoice& texts, const TextShares& shares)
{
    const bool calibration = shares.calibration != m_shares.calibration;
    const bool live = shares.live != m_shares.live;
    const bool locked = shares.locked != m_shares.locked;
    m_tasks.setFolder(texts.tasks.toStdString());
    if (live) keepRuns();
    if (calibration) {
        keepDeep();
        forgetProfile(true);
    }
    m_texts = texts;
    m_shares = shares;
    const CompressionPlan identity = CompressionPlan::identity(m_plans.shape());
    if (live) {
        m_evaluation.setModel(m_modelPath.toStdString(), identity, m_shares.live);
        restoreRuns();
        m_evaluation.setProfiles(m_rankProfiles);
        m_evaluation.setPlan(m_plans.plan(), planName(), m_plans.inGesture());
    }
    if (locked) m_locked.setModel(m_modelPath.toStdString(), identity, m_shares.locked);
    emit textChanged();
    noteTexts();
    if (calibration) {
        emit scoresChanged();
        lookForDeep();
        profile();
    }
    emit sessionChanged();
}

void Workbench::noteTexts()
{
    const TextChoice own = builtInTexts();
    const bool demo = m_modelPath == QDir(m_paths.demoFolder + QStringLiteral("/espalier-demo-moe")).absolutePath();
    QStringList cause;
    QStringList consequence;
    QStringList named;
    if (m_texts.calibration == own.calibration) named += tr("%1 for scores and searches").arg(textName(m_shares.calibration));
    if (m_texts.live == own.live) named += tr("%1 for the perplexity").arg(textName(m_shares.live));
    if (m_texts.locked == own.locked) named += tr("%1 as the locked text").arg(textName(m_shares.locked));
    if (!demo && !named.isEmpty()) {
        cause += tr("Built-in texts are used: %1.").arg(named.join(QStringLiteral(", ")));
        consequence += tr("They are English prose; text like that which the model is for says more.");
    }
    if (m_shares.calibration.part && m_shares.live.part) {
        cause += tr("One text is shared, no window is used twice: %1 are for scores and searches, %2 for the perplexity.")
                     .arg(rangeOf(m_shares.calibration), rangeOf(m_shares.live));
        if (m_shares.locked.part) consequence += tr("Locked: %1.").arg(rangeOf(m_shares.locked));
    } else if (m_shares.live.part && m_shares.locked.part) {
        cause += tr("Perplexity and locked text share %1: %2 and %3.")
                     .arg(QFileInfo(QString::fromStdString(m_shares.live.paths.front())).fileName(), rangeOf(m_shares.live),
                          rangeOf(m_shares.locked));
    }
    for (const TextRuns& other : m_otherTexts)
        if (!other.runs.empty() && other.text.paths == m_shares.calibration.paths && !other.text.part) {
            consequence += tr("What was measured on %1, which scores are fitted to, is kept: the history's tooltips show it.")
                               .arg(textName(other.text));
            if (cause.isEmpty()) cause += tr("The perplexity is measured on %1.").arg(textName(m_shares.live));
            break;
        }
    emit textsNoted(cause.join(QLatin1Char(' ')), consequence.join(QLatin1Char(' ')));
}

QStringList Workbench::elsewhere(const std::string& planHash) const
{
    QStringList lines;
    for (const TextRuns& other : m_otherTexts) {
        const auto run = other.runs.find(planHash);
        if (run == other.runs.end() || run->second.losses.empty()) continue;
        std::vector<WindowLoss> losses;
        for (const auto& [window, loss] : run->second.losses)
            losses.push_back(loss);
        lines += tr("%1 on %2")
                     .arg(format::perplexity(perplexity(losses).ppl),
                          basisText(textName(other.text), static_cast<int>(losses.size()), 0, other.text.windowLength));
    }
    for (const SessionOpening& opening : m_locked.openings())
        if (opening.planHash == planHash)
            lines += tr("locked: %1 on %2, dense %3")
                         .arg(format::perplexity(opening.ppl, opening.pplError),
                              basisText(QFileInfo(QString::fromStdString(opening.text.string())).fileName(), opening.windows, 0,
                                        opening.windowLength),
                              format::perplexity(opening.densePpl));
    if (QString tasks = m_tasks.words(planHash); !tasks.isEmpty()) lines += tasks;
    if (QString speed = m_speed.brief(planHash); !speed.isEmpty()) lines += speed;
    return lines;
}

void Workbench::measureLocked()
{
    if (!isOpen()) return;
    const CompressionPlan plan = m_plans.committed();
    if (!m_evaluation.measurable(plan)) return;
    m_locked.measure(plan, plan.isIdentity(m_plans.shape()) ? tr("dense") : QString::fromStdString(m_plans.history().current().text),
                     m_evaluation.profilesFor(plan));
}

// ---- sessions

void Workbench::saveTexts(SessionData& data) const
{
    std::erase_if(data.texts, [](const SessionText& text) {
        return text.role == "calibration" || text.role == "live" || text.role == "locked" || text.role == "profile" || text.role == "tasks";
    });
    data.texts.push_back(sessionText("calibration", m_shares.calibration, m_calibrationSha256));
    data.texts.push_back(sessionText("live", m_shares.live, m_evaluation.textSha256()));
    data.texts.push_back(sessionText("locked", m_shares.locked, m_locked.textSha256()));
    if (!m_texts.tasks.isEmpty()) data.texts.push_back({"tasks", m_texts.tasks.toStdString()});
    data.openings = m_locked.openings();
}

void Workbench::saveRuns(SessionData& data) const
{
    const auto save = [&data](const TextRuns& of) {
        for (const auto& [hash, run] : of.runs) {
            if (run.losses.empty()) continue;
            SessionRun saved;
            saved.planHash = hash;
            saved.tier = static_cast<int>(run.losses.size()) > of.text.quickWindows ? "full" : "quick";
            saved.textSha256 = of.textSha256;
            saved.tokenizerSha256 = of.tokenizerSha256;
            saved.windowLength = of.text.windowLength;
            saved.dtype = of.dtype;
            saved.settings = {{"quick_seconds", run.quickSeconds},
                              {"full_seconds", run.fullSeconds},
                              {"text", of.text.paths.empty() ? std::string() : of.text.paths.front()},
                              {"first_window", of.text.firstWindow},
                              {"windows", of.text.fullWindows},
                              {"part", of.text.part}};
            saved.time = run.time;
            for (const auto& [window, loss] : run.losses)
                saved.losses.push_back(loss);
            data.runs.push_back(std::move(saved));
        }
    };
    save({m_evaluation.text(), m_evaluation.textSha256(), m_evaluation.tokenizerSha256(), m_evaluation.dtype(), m_evaluation.runs()});
    save({m_locked.text(), m_locked.textSha256(), m_evaluation.tokenizerSha256(), m_evaluation.dtype(), m_locked.runs()});
    for (const TextRuns& other : m_otherTexts)
        save(other);
}

// A session from before there were three texts names the calibration text only: the other two are the built-in ones.
void Workbench::adoptTexts(const SessionData& data)
{
    m_keptText.clear();
    if (const SessionText* text = textOf(data, "profile")) m_keptText = QString::fromStdString(text->path.string());
    TextChoice texts = builtInTexts();
    const int length = windowLengthFor(data.shape);
    TextShares shares = shareTexts(texts, length, {}).value_or(TextShares());
    const SessionText* calibration = textOf(data, "calibration");
    const SessionText* live = textOf(data, "live");
    const SessionText* locked = textOf(data, "locked");
    if (calibration) {
        texts.calibration = QString::fromStdString(calibration->path.string());
        shares.calibration = evaluationText(*calibration, length);
        if (calibration->windows <= 0) shares.calibration.fullWindows = kCalibrationWindows;
    }
    if (live) {
        texts.live = QString::fromStdString(live->path.string());
        shares.live = evaluationText(*live, length);
    }
    if (locked) {
        texts.locked = QString::fromStdString(locked->path.string());
        shares.locked = evaluationText(*locked, length);
    }
    // A folder that is gone, the built-in one of another installation say, gives way to the one that is here.
    if (const SessionText* tasks = textOf(data, "tasks"); tasks && QFileInfo::exists(QString::fromStdString(tasks->path.string())))
        texts.tasks = QString::fromStdString(tasks->path.string());
    m_texts = texts;
    m_shares = shares;
}

void Workbench::adoptRuns(const SessionData& data)
{
    const SessionText* live = textOf(data, "live");
    const SessionText* locked = textOf(data, "locked");
    const SessionText* calibration = textOf(data, "calibration");
    if (calibration) m_calibrationSha256 = calibration->textSha256;
    for (const SessionRun& run : data.runs) {
        PlanRun restored;
        for (const WindowLoss& loss : run.losses)
            restored.losses[loss.window] = loss;
        restored.time = run.time;
        restored.quickSeconds = run.settings.value("quick_seconds", 0.0);
        restored.fullSeconds = run.settings.value("full_seconds", 0.0);
        if (live && !live->textSha256.empty() && run.textSha256 == live->textSha256) {
            m_evaluation.restoreText(run.textSha256, run.tokenizerSha256, run.dtype);
            m_evaluation.restoreRun(run.planHash, std::move(restored));
            continue;
        }
        if (locked && !locked->textSha256.empty() && run.textSha256 == locked->textSha256) {
            m_locked.restoreText(run.textSha256);
            m_locked.restoreRun(run.planHash, std::move(restored));
            continue;
        }
        auto other =
            std::find_if(m_otherTexts.begin(), m_otherTexts.end(), [&](const TextRuns& text) { return text.textSha256 == run.textSha256; });
        if (other == m_otherTexts.end()) {
            SessionText saved;
            saved.path = run.settings.value("text", calibration ? calibration->path.string() : std::string());
            saved.firstWindow = run.settings.value("first_window", 0);
            saved.windows = run.settings.value("windows", 0);
            saved.part = run.settings.value("part", false);
            other = m_otherTexts.insert(
                m_otherTexts.end(), TextRuns{evaluationText(saved, run.windowLength), run.textSha256, run.tokenizerSha256, run.dtype, {}});
        }
        other->runs[run.planHash] = std::move(restored);
    }
    m_locked.restore(data.openings);
}

}  // namespace espalier
